//! Structures against a model that chooses at random among the tokens that are allowed.

use serde_json::json;

use super::*;
use crate::chat::harmony::{CHANNEL, END, MESSAGE, RETURN, START};
use crate::chat::{ChatFormat, harmony::Harmony};

/// The tokenizer of the fixtures: 2048 tokens.
fn fixture() -> Arc<Tokenizer> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gpt2-kjv/tokenizer.json");
    Arc::new(Tokenizer::open_file(path.as_ref()).unwrap())
}

fn compile(structures: &Structures, tokenizer: &Arc<Tokenizer>, grammar: Grammar) -> Result<StructureState> {
    structures.compile(&Structure::at_once(grammar), Some(tokenizer))
}

/// Tokens that may come next.
fn allowed(state: &StructureState, vocabulary: usize, stop: &[u32]) -> Vec<u32> {
    let mut row = vec![0.0; vocabulary];
    state.allow(&mut row, stop);
    (0..vocabulary as u32).filter(|token| row[*token as usize] == 0.0).collect()
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Draws tokens until the structure is complete or a stop token is drawn.
fn walk(state: &mut StructureState, vocabulary: usize, stop: &[u32], random: &mut Random) -> Vec<u32> {
    let mut tokens = Vec::new();
    while !state.is_complete() {
        let choices = allowed(state, vocabulary, stop);
        let token = choices[random.below(choices.len())];
        if stop.contains(&token) {
            break;
        }
        assert!(state.push(token));
        tokens.push(token);
    }
    tokens
}

#[test]
fn whatever_is_drawn_fits_the_schema() {
    let (tokenizer, structures) = (fixture(), Structures::new(2048));
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["beast", "fowl", null]},
            "legs": {"type": "integer", "minimum": 0, "maximum": 120},
            "eats": {"type": "array", "items": {"$ref": "#/$defs/food"}, "maxItems": 3}
        },
        "required": ["name", "kind", "eats"],
        "additionalProperties": false,
        "$defs": {"food": {"type": "object", "properties": {"green": {"type": "boolean"}}, "required": ["green"], "additionalProperties": false}}
    });
    for seed in 0..20 {
        let mut state = compile(&structures, &tokenizer, Grammar::JsonSchema(schema.clone())).unwrap();
        let tokens = walk(&mut state, 2048, &[], &mut Random(seed));
        let text = tokenizer.decode(&tokens).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!(["beast", "fowl"].map(Value::from).contains(&value["kind"]) || value["kind"].is_null(), "{text}");
        assert!(value.get("legs").is_none_or(|legs| legs.as_u64().unwrap() <= 120), "{text}");
        let eats = value["eats"].as_array().unwrap();
        assert!(eats.len() <= 3 && eats.iter().all(|food| food["green"].is_boolean()), "{text}");
    }
}

#[test]
fn a_stop_token_may_come_where_the_text_may_end() {
    let (tokenizer, structures) = (fixture(), Structures::new(2048));
    let stop = [0];
    let mut state = compile(&structures, &tokenizer, Grammar::Regex("(and ){2,4}".into())).unwrap();
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut state = compile(&structures, &tokenizer, Grammar::Regex("(and ){2,4}".into())).unwrap();
        let tokens = walk(&mut state, 2048, &stop, &mut Random(seed));
        let text = tokenizer.decode(&tokens).unwrap();
        assert_eq!(text.replace("and ", ""), "");
        lengths.insert(text.len() / 4);
    }
    assert!(lengths.iter().all(|length| (2..=4).contains(length)) && lengths.len() > 1, "{lengths:?}");
    assert!(!allowed(&state, 2048, &stop).contains(&0), "nothing is there yet");
    let wrong = tokenizer.encode("wrath").unwrap()[0];
    assert!(!state.push(wrong), "what does not fit is not taken");
}

#[test]
fn what_a_harmony_model_thinks_is_free_and_its_final_text_is_not() {
    let (tokenizer, structures) = (Arc::new(Tokenizer::gpt_oss()), Structures::new(201_088));
    let format = ChatFormat::Harmony(Harmony::load().unwrap());
    let schema = json!({"type": "array", "items": {"enum": ["a", "ä", 7]}, "minItems": 1, "maxItems": 3});
    let structure = format.structure(Grammar::JsonSchema(schema)).unwrap();
    let stop = format.stop_tokens();
    for (seed, header) in
        ["<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>"].iter().enumerate()
    {
        let mut state = structures.compile(&structure, Some(&tokenizer)).unwrap();
        let mut parser = format.parser().unwrap();
        let free =
            tokenizer.encode("<|channel|>analysis<|message|>The final word: [1]<|end|><|start|>assistant").unwrap();
        assert!([CHANNEL, MESSAGE, END, START].iter().all(|token| free.contains(token)));
        for token in free.iter().chain(&tokenizer.encode(header).unwrap()) {
            assert_eq!(allowed(&state, 201_088, &stop).len(), 201_088);
            assert!(state.push(*token));
            parser.push(*token, "");
        }
        assert!(!allowed(&state, 201_088, &stop).contains(&RETURN));
        for token in walk(&mut state, 201_088, &stop, &mut Random(seed as u64)) {
            parser.push(token, "");
        }
        let (_, answer) = parser.finish(Some(RETURN), "");
        assert_eq!(answer.reasoning, "The final word: [1]");
        let list: Vec<Value> = serde_json::from_str(&answer.text).unwrap();
        assert!((1..=3).contains(&list.len()));
    }
}

#[test]
fn what_is_no_grammar_is_refused() {
    let (tokenizer, structures) = (fixture(), Structures::new(2048));
    let cases = [
        (Grammar::Regex("(".into()), "structure /(/ is not usable"),
        (Grammar::Regex("a(?=b)".into()), "structure /a(?=b)/ is not usable"),
        (
            Grammar::JsonSchema(json!({"type": "nonsense"})),
            "structure {\"type\":\"nonsense\"} is not usable: Invalid type",
        ),
        (Grammar::JsonSchema(json!({"$ref": "#/nowhere"})), "is not usable"),
        (Grammar::JsonSchema(json!([1, 2])), "is not usable"),
        (Grammar::JsonSchema(json!({"enum": []})), "is not usable"),
    ];
    for (grammar, message) in cases {
        let Err(error) = compile(&structures, &tokenizer, grammar.clone()) else { panic!("{grammar:?} was taken") };
        let error = error.to_string();
        assert!(error.contains(message), "{grammar:?}: {error}");
    }
    // A large one is taken, and costs no more than others.
    let nested = Grammar::Regex("((a{1,9999}){1,9999}){1,9999}".into());
    assert!(compile(&structures, &tokenizer, nested).is_ok());
    let missing = structures.compile(&Structure::at_once(Grammar::Regex("a".into())), None).unwrap_err().to_string();
    assert_eq!(missing, "structure /a/ needs a tokenizer, and there is none");
    let begins = Begin::After { marker: vec![1], then: 9999 };
    let outside = structures.compile(&Structure { grammar: Grammar::Regex("a".into()), begins }, Some(&tokenizer));
    assert_eq!(
        outside.unwrap_err().to_string(),
        "structure /a/ begins after token 9999, which is outside the vocabulary"
    );
}

//! Continuous batching of the fixtures: what is beside a sequence, how its prompt is cut, and which pages it shares, changes
//! none of its tokens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tessera_models::Model;
use tessera_models::generation::{
    Engine, Event, Finish, FinishReason, Generator, Grammar, Limits, Request, RequestId, SampleRows, Sampling,
    Scheduler, Step, Structure, run_all,
};
use tessera_runtime::pages::Pool;

use crate::fixture::{GPT_OSS, GPT2};
use crate::{on_host, take_turn};

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Requests of random lengths, greedy and seeded, many with a beginning in common.
fn requests(count: usize, text: &[u32], random: &mut Random) -> Vec<Request> {
    let one = |_| {
        let shared = [0, 0, 17, 40, 64][random.below(5)];
        let from = random.below(text.len() - 8);
        let own = 1 + random.below((text.len() - from).min(60));
        let prompt = [&text[..shared], &text[from..from + own]].concat();
        let mut sampling = Sampling { max_new_tokens: 1 + random.below(24), ..Sampling::default() };
        if random.below(2) == 0 {
            sampling.temperature = 0.8;
            sampling.top_p = [1.0, 0.95][random.below(2)];
            sampling.top_k = [0, 50][random.below(2)] as u32;
            sampling.seed = random.below(1000) as u64;
        }
        if random.below(3) == 0 {
            sampling.repetition_penalty = 1.2;
            sampling.presence_penalty = 0.3;
            sampling.min_p = 0.02;
        }
        Request { prompt, sampling }
    };
    (0..count).map(one).collect()
}

/// An engine whose caches nobody may take for bounded: all pages stay.
struct Unbounded(Box<dyn Engine>);

impl Engine for Unbounded {
    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }
    fn context(&self) -> usize {
        self.0.context()
    }
    fn page_size(&self) -> usize {
        self.0.page_size()
    }
    fn pools(&self) -> Vec<Pool> {
        self.0.pools().into_iter().map(|pool| Pool { window: None, ..pool }).collect()
    }
    fn step(&mut self, step: &Step) -> tessera_models::Result<()> {
        self.0.step(step)
    }
    fn logits(&self) -> Cow<'_, [f32]> {
        self.0.logits()
    }
    fn logits_mut(&mut self) -> tessera_models::Result<&mut [f32]> {
        self.0.logits_mut()
    }
    fn sample(&mut self, rows: &SampleRows) -> tessera_models::Result<Vec<u32>> {
        self.0.sample(rows)
    }
}

/// Runs 64 requests that arrive at random times, in steps shorter than most prompts and with pages for some of them only, and asserts
/// that each gets the tokens that it gets alone with all pages kept. Returns how often a sequence lost its pages.
#[track_caller]
pub fn assert_each_is_alone(
    engine: &dyn Fn(&[usize]) -> Box<dyn Engine>,
    pages: &[usize],
    text: &[u32],
    seed: u64,
) -> usize {
    let mut random = Random(seed);
    let requests = requests(64, text, &mut random);
    let mut alone = Unbounded(engine(&[32; 2]));
    let wanted: Vec<Vec<u32>> = requests
        .iter()
        .map(|request| {
            let limits = Limits { share_prefixes: false, ..Limits::default() };
            let mut scheduler = Scheduler::new(&mut alone, limits, None);
            run_all(&mut scheduler, std::slice::from_ref(request), &mut |_, _| ()).unwrap().remove(0).ids
        })
        .collect();

    let limits = Limits { tokens_per_step: 40, sequences: 24, ..Limits::default() };
    let mut scheduler = Scheduler::new(engine(pages), limits, None);
    let mut found: HashMap<RequestId, Vec<u32>> = HashMap::new();
    let (mut ids, mut queue) = (Vec::new(), requests.iter());
    while ids.len() < requests.len() || !scheduler.is_idle() {
        for request in queue.by_ref().take(random.below(6)) {
            ids.push(scheduler.submit(request.clone()).unwrap());
        }
        let mut happened = |id, event| {
            let tokens = found.entry(id).or_default();
            if let Event::Token(token) = event {
                tokens.push(token.id);
            }
        };
        scheduler.step(&mut happened).unwrap();
    }
    for ((id, request), wanted) in ids.iter().zip(&requests).zip(&wanted) {
        assert_eq!(&found[id], wanted, "{request:?}");
    }
    assert!(scheduler.timings().reused_tokens > 0);
    scheduler.timings().preemptions
}

/// Asserts that conversations which go on, or are taken back and go on differently, get the tokens that they get anew, and that so many
/// tokens of each prompt are found in the caches. Sequences have up to 90 tokens.
#[track_caller]
fn assert_rewinds_are_seamless(engine: &dyn Fn(&[usize]) -> Box<dyn Engine>, text: &[u32], reused: [usize; 5]) {
    let request = |prompt: &[u32]| Request {
        prompt: prompt.to_vec(),
        sampling: Sampling { max_new_tokens: 20, ..Sampling::default() },
    };
    let mut kept = Scheduler::new(engine(&[32; 2]), Limits::default(), None);
    let mut continuation = |prompt: &[u32]| {
        let before = kept.timings().reused_tokens;
        let ids = run_all(&mut kept, &[request(prompt)], &mut |_, _| ()).unwrap().remove(0).ids;
        (ids, kept.timings().reused_tokens - before)
    };
    let mut engine = Unbounded(engine(&[32; 2]));
    let mut fresh = |prompt: &[u32]| {
        let mut scheduler = Scheduler::new(&mut engine, Limits::default(), None);
        run_all(&mut scheduler, &[request(prompt)], &mut |_, _| ()).unwrap().remove(0).ids
    };
    let (first, _) = continuation(&text[..50]);
    assert_eq!(first, fresh(&text[..50]));
    let longer = [&text[..50], &first, &text[60..70]].concat();
    let rewound = [&text[..37], &text[80..90]].concat();
    for (prompt, reused) in [&longer, &rewound, &longer, &text[..50].to_vec(), &rewound].into_iter().zip(reused) {
        assert_eq!(continuation(prompt), (fresh(prompt), reused));
    }
}

#[test]
fn gpt2_is_the_same_in_any_company() {
    let _turn = take_turn();
    let loaded = on_host(&Model::open(&GPT2.folder()).unwrap());
    let engine = |pages: &[usize]| Box::new(loaded.engine_with(pages).unwrap()) as Box<dyn Engine>;
    assert_each_is_alone(&engine, &[20], &GPT2.sequence(), 3);
    assert_rewinds_are_seamless(&engine, &GPT2.sequence(), [64, 32, 64, 48, 32]);
}

/// With windows of 32 tokens in every other layer, which most sequences outgrow, and experts. A rewound prompt that leaves the others where
/// the window is gone is computed anew, once.
#[test]
fn gpt_oss_is_the_same_in_any_company() {
    let _turn = take_turn();
    let loaded = on_host(&Model::open(&GPT_OSS.folder()).unwrap());
    let engine = |pages: &[usize]| Box::new(loaded.engine_with(pages).unwrap()) as Box<dyn Engine>;
    assert_each_is_alone(&engine, &[20, 20], &GPT_OSS.sequence(), 5);
    // Windows for few, so that these run out.
    assert!(assert_each_is_alone(&engine, &[60, 9], &GPT_OSS.sequence(), 7) > 0);
    assert_rewinds_are_seamless(&engine, &GPT_OSS.sequence(), [64, 0, 64, 48, 32]);
}

#[test]
fn many_threads_share_a_generator_with_texts_and_structures() {
    let _turn = take_turn();
    let model = Model::open(&GPT2.folder()).unwrap();
    let tokenizer = Arc::new(model.folder.tokenizer().unwrap());
    let engine = on_host(&model).engine(64).unwrap();
    let generator = Generator::start(engine, Limits::default(), Some(tokenizer.clone())).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let (generator, tokenizer) = (&generator, &tokenizer);
            scope.spawn(move || {
                let schema = serde_json::json!({"type": "array", "items": {"enum": ["light", "dark", 3]}, "minItems": 2, "maxItems": 4});
                let structured = seed % 2 == 0;
                let sampling = Sampling {
                    max_new_tokens: 60,
                    temperature: 1.0,
                    seed,
                    structure: structured.then(|| Structure::at_once(Grammar::JsonSchema(schema))),
                    stop_strings: if structured { vec![] } else { vec![" the".to_owned()] },
                    ..Sampling::default()
                };
                let prompt = tokenizer.encode("And God said, ").unwrap();
                let (mut text, mut ids, mut end) = (String::new(), Vec::new(), None);
                for event in generator.submit(Request { prompt, sampling }).unwrap() {
                    match event.unwrap() {
                        Event::Token(token) => {
                            text += &token.text;
                            ids.push(token.id);
                        }
                        Event::Finished(finish) => end = Some(finish),
                    }
                }
                let Finish { reason, text: rest, .. } = end.unwrap();
                text += &rest;
                if structured {
                    assert_eq!((reason, &text), (FinishReason::Stop, &tokenizer.decode(&ids).unwrap()));
                    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
                    assert!((2..=4).contains(&list.len()), "{text}");
                } else {
                    let whole = tokenizer.decode(&ids).unwrap();
                    let stopped = whole.split(" the").next().unwrap();
                    assert_eq!(text, stopped);
                    assert_eq!(reason == FinishReason::Stop, whole != stopped);
                }
            });
        }
    });
}

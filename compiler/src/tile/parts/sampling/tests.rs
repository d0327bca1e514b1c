use tessera_ir::evaluate::Tensor;
use tessera_ir::ops::Sample;
use tessera_ir::{Dim, Storage, TensorType};

use super::*;
use crate::tile::interpret::{ArgumentData, TensorData, interpret};
use crate::tile::parts::{noise, reference};
use crate::tile::{Access, Coordinate, Dimension, GridExtent, Program, TensorArgument};

const BLOCK: u32 = 16;

/// How one row is sampled.
#[derive(Clone, Copy, Debug)]
struct Request {
    temperature: f32,
    top_k: i64,
    top_p: f32,
    seed: i64,
    counter: i64,
}

const PLAIN: Request = Request { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0x0123_4567_89ab_cdef, counter: 3 };

/// A program that samples its row of `logits` [rows, vocabulary].
fn sampler() -> Program {
    let mut b = Builder::new("sample");
    let [rows, vocabulary] = ["rows", "vocabulary"].map(|name| Dimension::Argument(b.integer(name, 1)));
    let logits = b.tensor(TensorArgument {
        name: "logits".into(),
        element: Element::F32,
        extents: [rows, vocabulary].into_iter().collect(),
        strides: [vocabulary, Dimension::Constant(1)].into_iter().collect(),
        access: Access::Read,
        alignment: 4,
    });
    let parameters = [
        ("temperature", Element::F32),
        ("top_k", Element::I32),
        ("top_p", Element::F32),
        ("seed", Element::I64),
        ("counter", Element::I32),
    ]
    .map(|(name, element)| b.contiguous(name, element, &[rows], Access::Read));
    let output = b.contiguous("output", Element::I32, &[rows], Access::Write);
    b.grid([GridExtent::Tiles { dimension: rows, block: 1 }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let row = b.program_id(0);
    let length = b.dimension(vocabulary);
    let load = |b: &mut Builder, start: Value| {
        let coordinates = [Coordinate::At(row), Coordinate::Block { start, length: BLOCK }];
        b.load_masked(logits, &coordinates, None, Some(Literal::Float(f64::NEG_INFINITY)))
    };
    let [temperature, top_k, top_p, seed, counter] =
        parameters.map(|parameter| b.load(parameter, &[Coordinate::At(row)]));
    let parameters = SamplingParameters { temperature, top_k, top_p, seed, counter };
    let token = sample(&mut b, &mut Row { length, block: BLOCK, load }, &parameters);
    b.store(output, &[Coordinate::At(row)], token);
    b.finish()
}

fn arguments(logits: &[f64], requests: &[Request]) -> Vec<ArgumentData> {
    let (rows, vocabulary) = (requests.len() as i64, (logits.len() / requests.len()) as i64);
    let floats = |values: Vec<f64>| ArgumentData::Tensor(TensorData::from_floats(Element::F32, &values));
    let integers = |element, field: fn(&Request) -> i64| {
        let values: Vec<i64> = requests.iter().map(field).collect();
        ArgumentData::Tensor(TensorData::from_integers(element, &values))
    };
    vec![
        ArgumentData::Integer(rows),
        ArgumentData::Integer(vocabulary),
        floats(logits.to_vec()),
        floats(requests.iter().map(|request| request.temperature.into()).collect()),
        integers(Element::I32, |request| request.top_k),
        floats(requests.iter().map(|request| request.top_p.into()).collect()),
        integers(Element::I64, |request| request.seed),
        integers(Element::I32, |request| request.counter),
        ArgumentData::Tensor(TensorData::unwritten(Element::I32, requests.len())),
    ]
}

fn run(program: &Program, logits: &[f64], requests: &[Request]) -> Vec<i64> {
    let mut arguments = arguments(logits, requests);
    interpret(program, &mut arguments).unwrap();
    arguments[8].tensor().unwrap().integers()
}

/// Every combination of temperature, top-k and top-p.
fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for temperature in [0.0, 0.3, 1.0, 2.5] {
        for top_k in [0, 1, 5, 40, 1000] {
            for top_p in [1.0, 0.95, 0.5, 0.0] {
                let counter = requests.len() as i64;
                requests.push(Request { temperature, top_k, top_p, counter, ..PLAIN });
            }
        }
    }
    requests
}

/// A program with its arguments, for the targets' tests.
pub(crate) fn example() -> (Program, Vec<ArgumentData>) {
    let requests = requests();
    (sampler(), arguments(&logits(requests.len(), 129), &requests))
}

/// The graph IR's own evaluation.
fn expected(logits: &[f64], requests: &[Request]) -> Vec<i64> {
    let rows = requests.len();
    let vocabulary = logits.len() / rows;
    let floats = |shape: Vec<usize>, values: Vec<f64>| Tensor::from_floats(Storage::F32, shape, values).unwrap();
    let integers = |storage, values: Vec<i64>| Tensor::from_integers(storage, [rows], values).unwrap();
    let column = |field: fn(&Request) -> i64| requests.iter().map(field).collect::<Vec<i64>>();
    let operands = [
        floats(vec![rows, vocabulary], logits.to_vec()),
        floats(vec![rows], requests.iter().map(|request| request.temperature.into()).collect()),
        integers(Storage::I32, column(|request| request.top_k)),
        floats(vec![rows], requests.iter().map(|request| request.top_p.into()).collect()),
        integers(Storage::I64, column(|request| request.seed)),
        integers(Storage::I32, column(|request| request.counter)),
    ];
    reference(Sample {}, operands, TensorType::new([Dim::Static(rows as u64)], Storage::I32)).to_integers().to_vec()
}

fn logits(rows: usize, vocabulary: usize) -> Vec<f64> {
    // f32 numbers, with some that are equal.
    noise(rows * vocabulary, 5).into_iter().map(|value| f64::from((value * 40.0) as f32).round() / 8.0).collect()
}

#[test]
fn philox_gives_the_published_answers() {
    let mut b = Builder::new("philox");
    let output = b.contiguous("output", Element::I32, &[Dimension::Constant(4)], Access::Write);
    let word = |b: &mut Builder, bits: u32| b.constant(Literal::Integer((bits as i32).into()), &[], Element::I32);
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344].map(|bits| word(&mut b, bits));
    let key = [0xa409_3822, 0x299f_31d0].map(|bits| word(&mut b, bits));
    let words = random::philox(&mut b, counter, key);
    for (position, word) in words.into_iter().enumerate() {
        let position = b.index(position as i64);
        b.store(output, &[Coordinate::At(position)], word);
    }
    let mut arguments = [ArgumentData::Tensor(TensorData::unwritten(Element::I32, 4))];
    interpret(&b.finish(), &mut arguments).unwrap();
    let words: Vec<u32> = arguments[0].tensor().unwrap().integers().into_iter().map(|word| word as u32).collect();
    assert_eq!(words, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

#[test]
fn every_combination_of_temperature_top_k_and_top_p_follows_the_rule() {
    let (sampler, requests) = (sampler(), requests());
    for vocabulary in [1, 7, 33, 129] {
        let logits = logits(requests.len(), vocabulary);
        let tokens = run(&sampler, &logits, &requests);
        let expected = expected(&logits, &requests);
        for (row, request) in requests.iter().enumerate() {
            assert_eq!(tokens[row], expected[row], "{request:?} of {vocabulary}");
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_their_probability_says() {
    const DRAWS: usize = 4000;
    let row: Vec<f64> = [0.5f64, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect();
    let requests: Vec<Request> = (0..DRAWS).map(|draw| Request { counter: draw as i64, ..PLAIN }).collect();
    let tokens = run(&sampler(), &row.repeat(DRAWS), &requests);
    for (token, probability) in [0.5, 0.25, 0.125, 0.125].into_iter().enumerate() {
        let share = tokens.iter().filter(|drawn| **drawn == token as i64).count() as f64 / DRAWS as f64;
        assert!((share - probability).abs() < 0.03, "token {token}: {share} of the draws");
    }
}

#[test]
fn equal_logits_are_kept_together_and_the_lowest_index_wins_the_greedy_choice() {
    let row = [1.0, 3.0, -0.0, 3.0, 0.0, 3.0];
    let greedy = Request { temperature: 0.0, ..PLAIN };
    assert_eq!(run(&sampler(), &row, &[greedy]), [1]);
    // top_k 2 keeps all three of the largest; which is drawn depends on the counter.
    let requests: Vec<Request> = (0..60).map(|counter| Request { top_k: 2, counter, ..PLAIN }).collect();
    let tokens = run(&sampler(), &row.repeat(60), &requests);
    assert!([1, 3, 5].iter().all(|token| tokens.contains(token)) && tokens.iter().all(|token| token % 2 == 1));
}

#[test]
fn infinities_and_nan_are_no_trouble() {
    let row = [f64::NAN, f64::NEG_INFINITY, 2.0, 1.0, f64::NAN];
    for temperature in [0.0, 1e-30] {
        assert_eq!(run(&sampler(), &row, &[Request { temperature, top_p: 0.9, ..PLAIN }]), [2]);
    }
    let nothing = [f64::NEG_INFINITY; 3];
    assert_eq!(run(&sampler(), &nothing, &[Request { temperature: 0.0, ..PLAIN }]), [0]);
}

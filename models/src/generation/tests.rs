//! Generation against an engine that is easy to predict: its logits depend on the whole sequence as the cache holds it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tessera_runtime::pages::Pool;

use super::*;

const VOCABULARY: usize = 50;

/// Keeps each page slot's token; its logits are a hash of everything that attention would see, in each of its caches.
struct HashEngine {
    page_size: usize,
    pools: Vec<Pool>,
    context: usize,
    caches: Vec<Vec<Option<i32>>>,
    logits: Vec<f32>,
    steps: Vec<Step>,
    fed: Arc<AtomicUsize>,
}

impl HashEngine {
    fn new(pages: usize) -> Self {
        Self::with_pools(vec![Pool { pages: pages as u32, window: None }])
    }

    /// A cache of all tokens, and one of windows.
    fn bounded(pages: usize, window_pages: usize, window: u32) -> Self {
        let all = Pool { pages: pages as u32, window: None };
        Self::with_pools(vec![all, Pool { pages: window_pages as u32, window: Some(window) }])
    }

    fn with_pools(pools: Vec<Pool>) -> Self {
        let (page_size, context) = (4, 32);
        Self {
            page_size,
            context,
            caches: pools.iter().map(|pool| vec![None; pool.pages as usize * page_size]).collect(),
            pools,
            logits: Vec::new(),
            steps: Vec::new(),
            fed: Arc::default(),
        }
    }
}

fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x7feb_352d);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x846c_a68b);
    hash ^ (hash >> 16)
}

impl Engine for HashEngine {
    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
    fn context(&self) -> usize {
        self.context
    }
    fn page_size(&self) -> usize {
        self.page_size
    }
    fn pools(&self) -> Vec<Pool> {
        self.pools.clone()
    }
    fn step(&mut self, step: &Step) -> Result<()> {
        assert_eq!(step.page_tables.len(), self.pools.len());
        let place = |cache: usize, sequence: i32, position: i32| {
            let (page, slot) = (position as usize / self.page_size, position as usize % self.page_size);
            let table = &step.page_tables[cache];
            let [rows, columns] = table.shape.map(|extent| extent as usize);
            assert!((sequence as usize) < rows && page < columns);
            let page = table.entries[sequence as usize * columns + page];
            assert!(page >= 0 && (page as u32) < self.pools[cache].pages, "page {page} of cache {cache}");
            page as usize * self.page_size + slot
        };
        for token in 0..step.tokens.len() {
            for cache in 0..self.pools.len() {
                let at = place(cache, step.sequences[token], step.positions[token]);
                self.caches[cache][at] = Some(step.tokens[token]);
            }
        }
        // Every token of a step looks at the caches, whether its logits are wanted or not.
        let hash_of = |token: usize| {
            let (sequence, last) = (step.sequences[token], step.positions[token]);
            let mut hash = 17u32;
            for (cache, pool) in self.pools.iter().enumerate() {
                let first = pool.window.map_or(0, |window| (last + 1 - window as i32).max(0));
                for position in first..=last {
                    let token = self.caches[cache][place(cache, sequence, position)].unwrap();
                    hash = mix(hash.wrapping_mul(31).wrapping_add(token as u32));
                }
            }
            hash
        };
        let hashes: Vec<u32> = (0..step.tokens.len()).map(hash_of).collect();
        self.logits.clear();
        for &row in &step.rows {
            let hash = hashes[row as usize];
            let logits = (0..VOCABULARY as u32).map(|token| (mix(hash ^ token) % 1024) as f32 / 128.0);
            self.logits.extend(logits);
        }
        self.fed.fetch_add(step.tokens.len(), Ordering::Relaxed);
        self.steps.push(step.clone());
        Ok(())
    }
    fn logits(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.logits)
    }
    fn logits_mut(&mut self) -> Result<&mut [f32]> {
        Ok(&mut self.logits)
    }
    /// Gumbel-max with noise from seed and counter, as `@sample` does it.
    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>> {
        let sampled = self.logits.chunks(VOCABULARY).enumerate().map(|(row, logits)| {
            let score = |token: usize| {
                let word = mix(rows.seed[row] as u32 ^ mix(rows.counter[row] as u32 ^ mix(token as u32)));
                let uniform = (f64::from(word) + 0.5) / f64::from(u32::MAX);
                f64::from(logits[token]) - f64::from(rows.temperature[row]) * (-uniform.ln()).ln()
            };
            (0..VOCABULARY).max_by(|left, right| score(*left).total_cmp(&score(*right))).unwrap() as u32
        });
        Ok(sampled.collect())
    }
}

fn request(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), sampling: Sampling { max_new_tokens, ..Sampling::default() } }
}

fn run(pages: usize, requests: &[Request], limits: Limits) -> (Vec<Continuation>, HashEngine) {
    let mut engine = HashEngine::new(pages);
    let (continuations, _) = generate(&mut engine, requests, limits, &mut |_, _| ()).unwrap();
    (continuations, engine)
}

fn requests() -> Vec<Request> {
    vec![request(&[1, 2, 3], 5), request(&[4], 9), request(&[5, 6, 7, 8, 9, 10, 11], 2), request(&[12, 13], 0)]
}

/// What each request's continuation is alone.
fn alone(requests: &[Request]) -> Vec<Continuation> {
    requests.iter().map(|request| run(100, std::slice::from_ref(request), Limits::default()).0.remove(0)).collect()
}

/// Numbers from a seed.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9);
        mix(self.0) % limit
    }
}

/// Requests of random lengths; some begin alike, some are sampled, some with everything that edits logits.
fn random_requests(count: usize, random: &mut Random) -> Vec<Request> {
    let beginning: Vec<u32> = (0..12).map(|token| token * 3 % 50).collect();
    let one = |_| {
        let shared = [0, 0, 5, 8, 12][random.below(5) as usize];
        let own = 1 + random.below(12);
        let prompt = beginning[..shared].iter().copied().chain((0..own).map(|_| random.below(50))).collect();
        let mut sampling = Sampling { max_new_tokens: random.below(14) as usize, ..Sampling::default() };
        if random.below(2) == 0 {
            sampling.temperature = 0.5 + random.below(4) as f32 / 4.0;
            sampling.seed = u64::from(random.below(1000));
        }
        if random.below(3) == 0 {
            sampling.repetition_penalty = 1.3;
            sampling.presence_penalty = 0.5;
            sampling.frequency_penalty = 0.25;
            sampling.min_p = 0.05;
            sampling.logit_bias = [(3, f32::NEG_INFINITY), (7, 1.5)].into();
        }
        if random.below(3) == 0 {
            sampling.logprobs = Some(2);
        }
        if random.below(3) == 0 {
            sampling.stop = vec![random.below(50), random.below(50)];
        }
        Request { prompt, sampling }
    };
    (0..count).map(one).collect()
}

#[test]
fn a_ragged_batch_is_each_request_alone() {
    let (together, engine) = run(100, &requests(), Limits::default());
    assert_eq!(engine.steps[0].tokens.len(), 11, "all prompts go through one step");
    assert_eq!(together, alone(&requests()));
}

/// What a request's events add up to.
type Outcome = (Vec<u32>, Vec<TokenLogprobs>, Option<Finish>);

/// Runs requests that arrive at random times, and asserts that none of it can be seen in what comes out of each.
#[track_caller]
fn assert_each_is_alone(engine: HashEngine, limits: Limits, random: &mut Random) -> Timings {
    let requests = random_requests(64, random);
    let wanted: Vec<Continuation> = requests
        .iter()
        .map(|request| {
            let pools = engine.pools.iter().map(|pool| Pool { pages: 100, ..*pool }).collect();
            let limits = Limits { share_prefixes: false, ..Limits::default() };
            let mut alone = HashEngine::with_pools(pools);
            generate(&mut alone, std::slice::from_ref(request), limits, &mut |_, _| ()).unwrap().0.remove(0)
        })
        .collect();
    let mut scheduler = Scheduler::new(engine, limits, None);
    let mut found: HashMap<RequestId, Outcome> = HashMap::new();
    let mut ids = Vec::new();
    let mut queue = requests.iter();
    while ids.len() < requests.len() || !scheduler.is_idle() {
        for request in queue.by_ref().take(random.below(4) as usize) {
            ids.push(scheduler.submit(request.clone()).unwrap());
        }
        scheduler
            .step(&mut |id, event| {
                let (tokens, logprobs, finish) = found.entry(id).or_default();
                assert!(finish.is_none(), "nothing follows the end");
                match event {
                    Event::Token(token) => {
                        tokens.push(token.id);
                        logprobs.extend(token.logprobs);
                    }
                    Event::Finished(end) => *finish = Some(end),
                }
            })
            .unwrap();
    }
    for ((id, request), wanted) in ids.iter().zip(&requests).zip(wanted) {
        let (tokens, logprobs, finish) = found.remove(id).unwrap();
        let finish = finish.unwrap();
        assert_eq!(
            (tokens, finish.reason, finish.stop_token),
            (wanted.ids, wanted.finish, wanted.stop_token),
            "{request:?}"
        );
        assert_eq!(logprobs, wanted.logprobs);
    }
    scheduler.timings()
}

/// Continuous batching: requests arrive while others run, prompts are fed in chunks, the cache is too small for all, and sequences
/// that begin alike share pages.
#[test]
fn sixty_four_requests_at_random_times_are_each_alone() {
    let mut random = Random(1);
    let (mut preemptions, mut reused) = (0, 0);
    for (pages, tokens_per_step, sequences) in [(100, 2048, 256), (30, 7, 16), (12, 5, 8), (9, 3, 64), (8, 1, 3)] {
        let limits = Limits { tokens_per_step, sequences, ..Limits::default() };
        let timings = assert_each_is_alone(HashEngine::new(pages), limits, &mut random);
        preemptions += timings.preemptions;
        reused += timings.reused_tokens;
    }
    assert!(preemptions > 0, "the small caches ran out of pages");
    assert!(reused > 0, "beginnings were shared");
}

/// The same with a cache that keeps windows, which most sequences outgrow.
#[test]
fn bounded_caches_change_no_sequence() {
    let mut random = Random(5);
    let (mut preemptions, mut reused) = (0, 0);
    for window in [1, 3, 4, 5, 9, 16, 100] {
        let least = Pool::pages_for(Some(window), 4, 32, 1);
        for (pages, window_pages, tokens_per_step, sequences) in [
            (100, 100, 2048, 256),
            (30, 4 * least, 7, 16),
            (12, 3 * least, 5, 8),
            (9, least, 3, 64),
            (40, least + 1, 9, 5),
        ] {
            let limits = Limits { tokens_per_step, sequences, ..Limits::default() };
            let engine = HashEngine::bounded(pages, window_pages, window);
            let timings = assert_each_is_alone(engine, limits, &mut random);
            preemptions += timings.preemptions;
            reused += timings.reused_tokens;
        }
    }
    assert!(preemptions > 0 && reused > 0, "{preemptions} {reused}");
}

/// A conversation goes on from the end of its last prompt, without what was thought for the answer; and of two that begin alike and part
/// outside of the window, the third to come finds the place.
#[test]
fn bounded_caches_keep_the_beginnings_that_are_wanted_again() {
    let mut scheduler = Scheduler::new(HashEngine::bounded(100, 40, 5), Limits::default(), None);
    let mut reused = |prompt: &[u32]| {
        let before = scheduler.timings().reused_tokens;
        let found = run_all(&mut scheduler, &[request(prompt, 6)], &mut |_, _| ()).unwrap().remove(0);
        let mut alone = HashEngine::bounded(100, 40, 5);
        let (wanted, _) = generate(&mut alone, &[request(prompt, 6)], Limits::default(), &mut |_, _| ()).unwrap();
        assert_eq!(found, wanted[0]);
        (found.ids, scheduler.timings().reused_tokens - before)
    };
    let system: Vec<u32> = (0..13).collect();
    let with = |rest: &[u32]| [&system[..], rest].concat();
    let first = with(&[40, 41, 42, 43, 44, 45, 46]);
    let (answer, none) = reused(&first);
    assert_eq!((answer.len(), none), (6, 0));
    // Without the beginning of the answer.
    assert_eq!(reused(&[&first[..], &answer[4..], &[9, 9]].concat()).1, 20);
    // The window before the end of the system's text is gone; now it is kept.
    assert_eq!(reused(&with(&[30, 31, 32, 33, 34, 35, 36])).1, 0);
    assert_eq!(reused(&with(&[20, 21, 22])).1, 12);
}

#[test]
fn neither_chunks_nor_a_small_cache_change_the_result() {
    let (expected, _) = run(100, &requests(), Limits::default());
    for tokens_per_step in [1, 2, 3, 5] {
        for (pages, sequences) in [(3, 10), (4, 2), (100, 1)] {
            let limits = Limits { tokens_per_step, sequences, ..Limits::default() };
            let (found, engine) = run(pages, &requests(), limits);
            assert_eq!(found, expected);
            assert!(engine.steps.iter().all(|step| step.tokens.len() <= tokens_per_step));
        }
    }
}

#[test]
fn decodes_go_on_while_a_long_prompt_is_fed() {
    let limits = Limits { tokens_per_step: 4, ..Limits::default() };
    let mut scheduler = Scheduler::new(HashEngine::new(100), limits, None);
    let first = scheduler.submit(request(&[1], 20)).unwrap();
    scheduler.step(&mut |_, _| ()).unwrap();
    scheduler.submit(request(&[2; 15], 1)).unwrap();
    for _ in 0..5 {
        let mut tokens = 0;
        scheduler
            .step(&mut |id, event| tokens += usize::from(id == first && matches!(event, Event::Token(_))))
            .unwrap();
        assert_eq!(tokens, 1);
    }
    assert_eq!(scheduler.load(), (0, 1), "the prompt of 15 took five steps of three");
}

#[test]
fn what_is_in_the_cache_is_not_computed_again() {
    let prompt: Vec<u32> = (0..18).collect();
    let fed = |engine: &HashEngine| engine.steps.iter().map(|step| step.tokens.len()).sum::<usize>();
    let mut scheduler = Scheduler::new(HashEngine::new(20), Limits::default(), None);
    let first = run_all(&mut scheduler, &[request(&prompt, 4)], &mut |_, _| ()).unwrap().remove(0);
    assert_eq!(scheduler.timings().prompt_tokens, 18);

    // The conversation goes on.
    let longer = [&prompt[..], &first.ids, &[40, 41]].concat();
    let mut reused = None;
    let mut note = |_: usize, event: &Event| {
        if let Event::Finished(finish) = event {
            reused = Some(finish.reused);
        }
    };
    let second = run_all(&mut scheduler, &[request(&longer, 4)], &mut note).unwrap();
    // 21 tokens had keys and values, in five whole pages and one more place.
    assert_eq!(reused, Some(20));
    assert_eq!(second, alone(&[request(&longer, 4)]));

    // It is taken back to the middle of its second page, and goes on differently from there.
    let rewound = [&prompt[..7], &[30, 31]].concat();
    let third = run_all(&mut scheduler, &[request(&rewound, 6)], &mut |_, _| ()).unwrap();
    assert_eq!(scheduler.timings().reused_tokens, 20 + 4);
    assert_eq!(third, alone(&[request(&rewound, 6)]));

    // What was there before the rewind is still there, and right.
    assert_eq!(run_all(&mut scheduler, &[request(&longer, 4)], &mut |_, _| ()).unwrap(), second);
    assert_eq!(scheduler.timings().reused_tokens, 24 + 20);

    let unshared = Limits { share_prefixes: false, ..Limits::default() };
    let (_, engine) = run(20, &[request(&prompt, 4), request(&prompt, 4)], unshared);
    assert_eq!(fed(&engine), 2 * 21);
}

#[test]
fn a_stop_token_ends_one_sequence_and_not_the_batch() {
    let (free, _) = run(100, &requests(), Limits::default());
    let mut stopped = requests();
    let stop = free[1].ids[3];
    stopped[1].sampling.stop = vec![stop];
    let first = free[1].ids.iter().position(|id| *id == stop).unwrap();
    let mut seen = Vec::new();
    let (found, _) =
        generate(&mut HashEngine::new(100), &stopped, Limits::default(), &mut |index, id| seen.push((index, id)))
            .unwrap();
    assert_eq!(
        (&found[1].ids[..], found[1].finish, found[1].stop_token),
        (&free[1].ids[..first], FinishReason::Stop, Some(stop))
    );
    assert_eq!(found[0], free[0]);
    let streamed: Vec<u32> = seen.iter().filter(|(index, _)| *index == 1).map(|(_, id)| *id).collect();
    assert_eq!(streamed, found[1].ids);
}

#[test]
fn the_longest_sequence_ends_generation() {
    let (found, engine) = run(100, &[request(&[1; 30], 100)], Limits::default());
    assert_eq!(found[0].finish, FinishReason::Context);
    assert_eq!(found[0].ids.len(), 3, "positions 30 and 31, and the token that follows the last position");
    assert!(engine.steps.iter().flat_map(|step| &step.positions).all(|&position| position < 32));
}

#[test]
fn logprobs_are_the_models_own() {
    let mut request = request(&[1, 2, 3], 3);
    let plain = alone(&[request.clone()]).remove(0);
    request.sampling.logprobs = Some(3);
    request.sampling.logit_bias = [(plain.ids[0], f32::NEG_INFINITY)].into();
    let found = alone(&[request]).remove(0);
    let first = &found.logprobs[0];
    assert_eq!(first.top[0].0, plain.ids[0], "the forbidden token is still the model's likeliest");
    assert_ne!(found.ids[0], plain.ids[0]);
    assert!(first.logprob < first.top[0].1 && first.top.len() == 3);
}

#[test]
fn where_nothing_may_be_drawn_the_sequence_ends() {
    let mut request = request(&[1, 2, 3], 3);
    request.sampling.logit_bias = (0..50).map(|token| (token, f32::NEG_INFINITY)).collect();
    let found = alone(&[request]).remove(0);
    assert_eq!((found.ids.len(), found.finish), (0, FinishReason::Impossible));
}

#[test]
fn a_cancelled_request_ends_at_once_and_gives_its_pages_back() {
    let limits = Limits { sequences: 2, ..Limits::default() };
    let mut scheduler = Scheduler::new(HashEngine::new(20), limits, None);
    let ids: Vec<RequestId> = (1..4).map(|token| scheduler.submit(request(&[token], 12)).unwrap()).collect();
    let mut finished = Vec::new();
    let mut step = |scheduler: &mut Scheduler<HashEngine>| {
        scheduler
            .step(&mut |id, event| {
                if let Event::Finished(_) = event {
                    finished.push(id)
                }
            })
            .unwrap()
    };
    step(&mut scheduler);
    assert_eq!(scheduler.load(), (1, 2));
    for id in [ids[0], ids[2]] {
        let Some(Event::Finished(finish)) = scheduler.cancel(id).unwrap() else { panic!("{id:?} was there") };
        assert_eq!(finish.reason, FinishReason::Cancelled);
        assert_eq!(scheduler.cancel(id).unwrap(), None);
    }
    while !scheduler.is_idle() {
        step(&mut scheduler);
    }
    assert_eq!(finished, [ids[1]]);
    // All pages can be had again.
    let whole = run_all(&mut scheduler, &[request(&[9; 30], 3)], &mut |_, _| ()).unwrap();
    assert_eq!(whole, alone(&[request(&[9; 30], 3)]));
}

#[test]
fn a_generator_streams_to_many_threads() {
    let requests = random_requests(24, &mut Random(7));
    let limits = Limits { tokens_per_step: 6, sequences: 6, ..Limits::default() };
    let generator = Generator::start(HashEngine::new(16), limits, None).unwrap();
    let wanted = alone(&requests);
    std::thread::scope(|scope| {
        for (request, wanted) in requests.iter().zip(&wanted) {
            let generator = &generator;
            scope.spawn(move || {
                let mut ids = Vec::new();
                for event in generator.submit(request.clone()).unwrap() {
                    match event.unwrap() {
                        Event::Token(token) => ids.push(token.id),
                        Event::Finished(finish) => assert_eq!(finish.reason, wanted.finish),
                    }
                }
                assert_eq!(ids, wanted.ids);
            });
        }
    });
    assert!(generator.timings().steps > 0);
    assert!(generator.submit(request(&[], 1)).unwrap_err().to_string().starts_with("prompt [] is empty"));
}

#[test]
fn a_stream_that_is_dropped_or_cancelled_stops_the_work() {
    let mut engine = HashEngine::new(1000);
    engine.context = 4000;
    let fed = engine.fed.clone();
    let generator = Generator::start(engine, Limits::default(), None).unwrap();
    let mut long = generator.submit(request(&[1], 3900)).unwrap();
    let dropped = generator.submit(request(&[2], 3900)).unwrap();
    assert!(matches!(long.next(), Some(Ok(Event::Token(_)))));
    drop(dropped);
    long.cancel();
    let last = long.by_ref().last().unwrap().unwrap();
    assert!(matches!(last, Event::Finished(Finish { reason: FinishReason::Cancelled, .. })));
    assert!(long.next().is_none());
    // A stream that outlives its generator ends with an error, not never.
    let mut orphan = generator.submit(request(&[3], 3900)).unwrap();
    drop(generator);
    assert!(orphan.by_ref().last().unwrap().is_err());
    assert!(fed.load(Ordering::Relaxed) < 3 * 3900);
}

/// The engine fails at its third step.
struct Failing(HashEngine);

impl Engine for Failing {
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
        self.0.pools()
    }
    fn step(&mut self, step: &Step) -> Result<()> {
        if self.0.steps.len() == 2 {
            return Err(ModelError::Request("the device is gone".to_owned()));
        }
        self.0.step(step)
    }
    fn logits(&self) -> Cow<'_, [f32]> {
        self.0.logits()
    }
    fn logits_mut(&mut self) -> Result<&mut [f32]> {
        self.0.logits_mut()
    }
    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>> {
        self.0.sample(rows)
    }
}

#[test]
fn everyone_is_told_of_an_engine_that_fails() {
    let generator = Generator::start(Failing(HashEngine::new(100)), Limits::default(), None).unwrap();
    let error = generator.submit(request(&[1], 9)).unwrap().last().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the device is gone");
    let late = match generator.submit(request(&[1], 9)) {
        Ok(stream) => stream.last().unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(late.to_string(), "generation has stopped");
}

#[test]
fn impossible_requests_are_refused() {
    let with = |sampling| Request { prompt: vec![1], sampling };
    let cases = [
        (request(&[], 4), "prompt [] is empty"),
        (request(&[50], 4), "prompt token 50 at position 0 is outside the vocabulary of 50"),
        (request(&[1; 33], 4), "prompt of 33 tokens is longer than the model's longest sequence, 32"),
        (
            request(&[1; 9], 10),
            "max_new_tokens 10 needs 5 pages of the KV cache with a prompt of 9 tokens, and the cache has 2",
        ),
        (with(Sampling { top_p: f32::NAN, ..Sampling::default() }), "top_p NaN must be above 0"),
        (with(Sampling { temperature: -1.0, ..Sampling::default() }), "temperature -1 must be finite"),
        (
            with(Sampling { max_new_tokens: 1, stop_strings: vec!["x".into()], ..Sampling::default() }),
            "stop_strings [\"x\"] need a tokenizer",
        ),
    ];
    for (request, message) in cases {
        let error = generate(&mut HashEngine::new(2), &[request], Limits::default(), &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    let many = [request(&[1], 1), request(&[50], 4)];
    let error = generate(&mut HashEngine::new(2), &many, Limits::default(), &mut |_, _| ()).unwrap_err();
    assert_eq!(error.to_string(), "request 1: prompt token 50 at position 0 is outside the vocabulary of 50");
    // The most that there can be asked for is the model's longest sequence.
    let limits = Limits { tokens_per_step: 4, ..Limits::default() };
    let caches = CacheLayout { page_size: 4, windows: vec![None, Some(5)] };
    // Two pages for the window, twice; one for the step, and one more that it may begin.
    assert_eq!(pages_for(&[request(&[1], usize::MAX)], 32, &caches, &limits), [8, 6]);
    assert_eq!(pages_for(&[request(&[1], 7)], 32, &caches, &limits), [2, 2]);
    let error = generate(&mut HashEngine::bounded(100, 1, 5), &[request(&[1; 9], 4)], limits, &mut |_, _| ());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("needs 2 pages of the KV cache of windows with a prompt of 9 tokens, and the cache has 1"),
        "{message}"
    );
}

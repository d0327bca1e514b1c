//! Greedy generation with a compiled serving step, token ids in and out:
//!
//!     cargo run -p tessera-runtime --example generate -- model.tsr model.safetensors 15,302,7 16
use std::error::Error;

use tessera_runtime::plan::CacheSpecification;
use tessera_runtime::{Artifact, Executable, KvCache, Session, TensorView, Weights, device, pages::Pages};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [artifact, weights, prompt, count] = &arguments[..] else {
        return Err("usage: generate MODEL.tsr WEIGHTS PROMPT_IDS COUNT".into());
    };
    let device = device::open("host")?;
    let model = Executable::load(&Artifact::open(artifact)?, &Weights::open(weights)?, &device)?;
    let mut session = Session::new(&model);
    // A model has a cache, with a page table, for each kind of attention among its layers.
    let plan = model.plan();
    let cache = |cache: &CacheSpecification| KvCache::new(&model, &cache.name, 256);
    let mut caches: Vec<KvCache> = plan.caches.iter().map(cache).collect::<Result<_, _>>()?;
    let mut pages = Pages::of(&caches.iter().collect::<Vec<_>>())?;
    let sequence = pages.open();
    // The first step takes the whole prompt, each later one the token that the step before has chosen.
    let mut tokens: Vec<i32> = prompt.split(',').map(str::parse).collect::<Result<_, _>>()?;
    for _ in 0..count.parse()? {
        let positions: Vec<i32> = pages.append(sequence, tokens.len())?.collect();
        let tables = pages.tables(&[sequence])?;
        let (sequences, rows) = (vec![0; tokens.len()], [tokens.len() as i32 - 1]);
        let mut inputs = vec![
            ("tokens", TensorView::vector(&tokens)),
            ("positions", TensorView::vector(&positions)),
            ("sequences", TensorView::vector(&sequences)),
            ("rows", TensorView::vector(&rows)),
        ];
        for (cache, table) in tables.iter().enumerate() {
            let name = plan.page_table(cache).ok_or("a cache has no page table")?;
            inputs.push((name, TensorView::new(&table.shape, &table.entries)?));
        }
        let names = plan.caches.iter().map(|cache| cache.name.as_str());
        let mut arguments: Vec<(&str, &mut KvCache)> = names.zip(&mut caches).collect();
        let outputs = session.run(&inputs, &mut arguments)?;
        let logits = outputs.at(0)?.elements::<f32>()?;
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).ok_or("no vocabulary")?;
        println!("{best}");
        tokens = vec![best as i32];
    }
    Ok(())
}

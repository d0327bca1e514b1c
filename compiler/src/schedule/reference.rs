//! The reference page of schedules, written from the table of knobs.

use std::fmt::Write;

use super::strategy::{KNOBS, Strategy};

/// The page in Markdown: strategies, knobs, and how they are set by hand.
pub fn reference() -> String {
    let mut page = String::from(
        "# Schedules\n\n\
         Generated from the declarations in `compiler/src/schedule/strategy.rs`; do not edit.\n\n\
         Every kernel has a strategy and knobs, chosen by the cost model for the target (`compiler/src/schedule/cost.rs`). \
         `tesserac compile --emit schedule` prints them: each fusion carries them in its attribute `schedule`, as in \
         `matmul rows=8 columns=768 if T in 2..=8; matmul rows=96 columns=320 if T in 9..`, one tiling for each range of a symbol. The \
         dump can be edited and compiled from. A knob of all kernels of a strategy is set with `strategy.knob=value`, as in \
         `--knobs matmul.rows=32,attention.keys=128`.\n\n\
         ## Strategies\n\n| strategy | tiles |\n|---|---|\n",
    );
    // Writing to a string does not fail.
    for strategy in Strategy::ALL {
        let _ = writeln!(page, "| `{}` | {} |", strategy.name(), strategy.summary());
    }
    page.push_str("\n## Knobs\n\n| knob | default | meaning |\n|---|---|---|\n");
    for (name, default, meaning) in KNOBS {
        let _ = writeln!(page, "| `{name}` | {default} | {} |", meaning.trim());
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_of_schedules_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("SCHEDULES.md");
        let page = super::reference();
        if std::env::var_os("TESSERA_BLESS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page, "compiler/SCHEDULES.md is not current; run the test with TESSERA_BLESS=1 to write it");
    }
}

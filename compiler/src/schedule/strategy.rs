//! How a region becomes a kernel: its strategy and the sizes of its tiles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which tiles a program makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// Tiles of rows by columns, each element on its own.
    Elementwise,
    /// Whole rows, with what is reduced over them.
    Rows,
    /// Runs of elements in memory order: the fallback for orders that tiles do not have.
    Flat,
    /// Tiles of a matrix product.
    Matmul,
    /// Queries of one key head.
    Attention,
    /// Rows of experts by columns.
    Experts,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Strategy; 6] = [
        Strategy::Elementwise,
        Strategy::Rows,
        Strategy::Flat,
        Strategy::Matmul,
        Strategy::Attention,
        Strategy::Experts,
    ];

    /// Which tiles a program makes, in a line.
    pub const fn summary(self) -> &'static str {
        match self {
            Strategy::Elementwise => "rows by columns, each element on its own",
            Strategy::Rows => "whole rows, with what is reduced over them",
            Strategy::Flat => "runs of elements in memory order: the fallback for orders that tiles do not have",
            Strategy::Matmul => "tiles of a matrix product, with what feeds it and what is made of it",
            Strategy::Experts => {
                "rows by columns of the experts chosen for them; of several rows, all that one expert has"
            }
            Strategy::Attention => "queries of one key head, over all keys that they see",
        }
    }

    /// The name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Elementwise => "elementwise",
            Strategy::Rows => "rows",
            Strategy::Flat => "flat",
            Strategy::Matmul => "matmul",
            Strategy::Attention => "attention",
            Strategy::Experts => "experts",
        }
    }
}

/// Declares the knobs of a schedule: the one table from which text form and documentation follow.
macro_rules! knobs {
    ($( $(#[doc = $doc:literal])* $name:ident = $text:literal, $default:literal; )*) => {
        /// A strategy with the values of its knobs.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct Tiling {
            /// Which tiles a program makes.
            pub strategy: Strategy,
            $( $(#[doc = $doc])* pub $name: u32, )*
        }

        /// Name, default and meaning of every knob.
        pub static KNOBS: &[(&str, u32, &str)] = &[$(($text, $default, concat!($($doc),*))),*];

        impl Tiling {
            /// The strategy with every knob at its default.
            pub const fn new(strategy: Strategy) -> Tiling {
                Tiling { strategy, $($name: $default),* }
            }

            /// The knob of a name.
            pub fn knob(&mut self, name: &str) -> Option<&mut u32> {
                match name {
                    $($text => Some(&mut self.$name),)*
                    _ => None,
                }
            }

            fn values(&self) -> Vec<(&'static str, u32, u32)> {
                vec![$(($text, self.$name, $default)),*]
            }
        }
    };
}

knobs! {
    /// Rows of a tile: of a result, or query heads of an attention.
    rows = "rows", 1;
    /// Columns of a tile.
    columns = "columns", 1;
    /// Parts that the columns of a matrix product are computed in, so that a rotation finds both elements of a pair.
    pieces = "pieces", 1;
    /// Where what feeds the rows of a matrix product is computed, if rows are reduced for it: 1 in the product's loop, 2 by a kernel of its
    /// own.
    prologue = "prologue", 1;
    /// Length of the chunks that a matrix product sums over.
    inner = "inner", 32;
    /// Keys that attention looks at in one step.
    keys = "keys", 64;
    /// Parts that attention cuts each sequence's keys into, or a matrix product its inner dimension, a program for each; a second
    /// kernel merges what they find.
    splits = "splits", 1;
    /// Longest row that is reduced in one step.
    chunk = "chunk", 4096;
    /// Warps of a GPU program.
    warps = "warps", 4;
    /// Shared-memory buffers of a GPU program's loads in a loop.
    stages = "stages", 1;
}

impl fmt::Display for Tiling {
    /// Writes `matmul rows=64 columns=128 …`: the strategy and the knobs that differ from their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.strategy.name())?;
        for (name, value, default) in self.values() {
            if value != default {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Tiling {
    type Err = String;

    fn from_str(text: &str) -> Result<Tiling, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let strategy = Strategy::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Strategy::ALL.iter().map(|strategy| strategy.name()).collect();
            format!("`{name}` is no strategy; there are {}", names.join(", "))
        })?;
        let mut tiling = Tiling::new(strategy);
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(format!("`{word}` is not NAME=NUMBER"));
            };
            let value: u32 = value.parse().map_err(|_| format!("`{value}` is no number from 0 to {}", u32::MAX))?;
            let Some(knob) = tiling.knob(name) else {
                let names: Vec<&str> = KNOBS.iter().map(|knob| knob.0).collect();
                return Err(format!("there is no knob `{name}`; there are {}", names.join(", ")));
            };
            if value == 0 {
                return Err(format!("`{name}` must be at least 1"));
            }
            *knob = value;
        }
        Ok(tiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilings_are_read_as_they_are_written() {
        let text = "matmul rows=64 columns=128 stages=3";
        assert_eq!(text.parse::<Tiling>().unwrap().to_string(), text);
        assert_eq!("rows".parse::<Tiling>().unwrap(), Tiling::new(Strategy::Rows));
        assert!(
            "matmul bm=3".parse::<Tiling>().unwrap_err().contains("there is no knob `bm`; there are rows, columns")
        );
        assert!("gemm".parse::<Tiling>().unwrap_err().contains("`gemm` is no strategy"));
        assert!("rows rows=0".parse::<Tiling>().is_err());
    }
}

//! The mesh of devices, how tensors are spread over it, and how ops relate the shardings of their
//! operands and results.
//!
//! The model is that of Shardy: a mesh has named axes; a tensor's sharding lists, for each
//! dimension, the axes it is split over, major to minor; an op's rule names the loops ("factors") of
//! its computation and says which factor each dimension runs over.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// One axis of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshAxis {
    /// The name that shardings use.
    pub name: Name,
    /// Devices along this axis.
    pub size: u64,
}

/// A grid of devices with named axes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mesh {
    /// The axes, major to minor.
    pub axes: Vec<MeshAxis>,
}

impl Mesh {
    /// The size of the axis `name`.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.axes.iter().find(|axis| axis.name == *name).map(|axis| axis.size)
    }

    /// Number of devices; 1 for a mesh with no axes, `None` if the product overflows.
    pub fn devices(&self) -> Option<u64> {
        self.axes.iter().try_fold(1u64, |devices, axis| devices.checked_mul(axis.size))
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self.axes.iter().map(|axis| format!("{}={}", axis.name, axis.size)).collect();
        write!(f, "[{}]", axes.join(", "))
    }
}

/// How a tensor is spread over the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sharding {
    /// For each dimension, the axes it is split over, major to minor; none means replicated.
    pub dimensions: Vec<Vec<Name>>,
    /// Axes over which every device holds a partial sum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<Name>,
}

impl Sharding {
    /// Every axis the sharding mentions, in order.
    pub fn axes(&self) -> impl Iterator<Item = &Name> {
        self.dimensions.iter().flatten().chain(&self.partial)
    }

    /// Why this sharding does not fit a tensor of `rank` dimensions on `mesh`, if so.
    pub fn objection(&self, rank: usize, mesh: &Mesh) -> Option<String> {
        if self.dimensions.len() != rank {
            let given = self.dimensions.len();
            return Some(format!("the sharding lists {given} dimensions, the tensor has {rank}"));
        }
        let mut seen: Vec<&Name> = Vec::new();
        for axis in self.axes() {
            if mesh.size(axis).is_none() {
                return Some(format!("the mesh {mesh} has no axis `{axis}`"));
            }
            if seen.contains(&axis) {
                return Some(format!("axis `{axis}` is used twice in one sharding"));
            }
            seen.push(axis);
        }
        None
    }
}

impl fmt::Display for Sharding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dimensions: Vec<String> = self.dimensions.iter().map(|axes| format!("[{}]", axes.join(", "))).collect();
        write!(f, "@shard({})", dimensions.join(", "))?;
        if !self.partial.is_empty() {
            write!(f, " @partial({})", self.partial.join(", "))?;
        }
        Ok(())
    }
}

/// What splitting a factor does to the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorKind {
    /// Every part of the result comes from the same part of the operands.
    Parallel,
    /// Parts of the operands give partial sums of the results.
    Reduction,
    /// The computation needs the whole extent on one device.
    Whole,
}

/// One loop of an op's computation, as a rule of [`ShardingRule`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Factor(pub usize);

/// How the dimensions of an op's operands and results follow from the loops of its computation,
/// as in Shardy's op sharding rules: matmul is `(m k, k n) -> (m n)` with `k` a reduction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardingRule {
    /// The kind of each factor.
    pub factors: Vec<FactorKind>,
    /// For each operand, for each dimension, the factors it runs over, major to minor. A cache
    /// operand has no dimensions.
    pub operands: Vec<Vec<Vec<Factor>>>,
    /// The same of each result.
    pub results: Vec<Vec<Vec<Factor>>>,
}

impl ShardingRule {
    /// A rule with no factors yet.
    pub fn new() -> ShardingRule {
        ShardingRule::default()
    }

    /// Adds a factor.
    pub fn factor(&mut self, kind: FactorKind) -> Factor {
        self.factors.push(kind);
        Factor(self.factors.len() - 1)
    }

    /// Adds `count` parallel factors.
    pub fn parallel(&mut self, count: usize) -> Vec<Factor> {
        (0..count).map(|_| self.factor(FactorKind::Parallel)).collect()
    }

    /// Adds an operand, one factor for each dimension.
    pub fn operand(mut self, factors: impl IntoIterator<Item = Factor>) -> ShardingRule {
        self.operands.push(factors.into_iter().map(|factor| vec![factor]).collect());
        self
    }

    /// Adds a result, one factor for each dimension.
    pub fn result(mut self, factors: impl IntoIterator<Item = Factor>) -> ShardingRule {
        self.results.push(factors.into_iter().map(|factor| vec![factor]).collect());
        self
    }

    /// The kind of a factor.
    pub fn kind(&self, factor: Factor) -> FactorKind {
        self.factors[factor.0]
    }
}

impl fmt::Display for ShardingRule {
    /// Writes the rule as `(a c, c b) -> (a b), reduction c`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |factor: &Factor| match u32::try_from(factor.0) {
            Ok(index) if index < 26 => char::from(b'a' + index as u8).to_string(),
            _ => format!("f{}", factor.0),
        };
        let tensor = |dimensions: &Vec<Vec<Factor>>| {
            let dimensions: Vec<String> = dimensions
                .iter()
                .map(|factors| match factors.as_slice() {
                    [] => "1".to_owned(),
                    factors => factors.iter().map(letter).collect::<Vec<_>>().join("·"),
                })
                .collect();
            dimensions.join(" ")
        };
        let list = |tensors: &[Vec<Vec<Factor>>]| tensors.iter().map(tensor).collect::<Vec<_>>().join(", ");
        write!(f, "({}) -> ({})", list(&self.operands), list(&self.results))?;
        for (kind, name) in [(FactorKind::Reduction, "reduction"), (FactorKind::Whole, "whole")] {
            let factors: Vec<String> = (0..self.factors.len())
                .map(Factor)
                .filter(|factor| self.kind(*factor) == kind)
                .map(|factor| letter(&factor))
                .collect();
            if !factors.is_empty() {
                write!(f, ", {name} {}", factors.join(" "))?;
            }
        }
        Ok(())
    }
}

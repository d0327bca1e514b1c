//! A kernel, decoded.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::convergence::Convergence;
use super::fault::Place;
use super::instruction::{Instruction, Traits};
use super::row::{Row, Slot};
use crate::parse::ast::Requirements;

/// A kernel with all functions it can reach, ready to run.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// The instructions; control starts at the first, and cannot run past the last.
    pub code: Vec<Instruction>,
    /// Operands beyond those that fit into instructions.
    pub list: Vec<Slot>,
    /// Constants, as rows.
    pub constants: Vec<Row>,
    /// How many rows of registers a warp needs.
    pub rows: usize,
    /// How many predicates a warp needs.
    pub predicates: usize,
    /// Rows that are set before the first instruction.
    pub presets: Vec<(u32, Preset)>,
    /// Where parameters are: offset and size.
    pub parameters: Vec<(u32, u32)>,
    /// The bytes of all parameters.
    pub parameter_bytes: u32,
    /// The bytes of shared memory that the kernel declares.
    pub static_shared: u32,
    /// How what is sized at launch is aligned.
    pub dynamic_alignment: u32,
    /// The bytes of local memory of a thread.
    pub local_bytes: u32,
    /// What the kernel asks of a launch.
    pub requirements: Requirements,
    /// Tables of `brx.idx`: labels' instructions.
    pub tables: Vec<Vec<u32>>,
    /// The functions that it may call, by their numbers in the module.
    pub functions: HashMap<usize, Callable>,
    /// The row that holds how much of the stack is in use, in bytes.
    pub stack_pointer: u32,
    /// The source of each [`Instruction::place`].
    pub places: Vec<Place>,
    /// The section of the PTX ISA that describes the instruction of each place: `9.7.1.1 add`.
    pub sections: Vec<&'static str>,
    /// What is known of the instruction of each place.
    pub traits: Vec<Traits>,
    /// The registers and predicates that the instruction of each place writes, in its order.
    pub destinations: Vec<Vec<Destination>>,
    /// What each of them reads, in its order; the guard first.
    pub sources: Vec<Vec<Source>>,
    /// Whether it has `wgmma` instructions.
    pub has_products: bool,
    /// Whether it has `tcgen05.fence::before_thread_sync`, and `after_thread_sync`.
    pub tensor_fences: [bool; 2],
    /// The target it was compiled for: `sm_90a`.
    pub target: String,
    /// Where threads meet, once somebody has asked.
    pub convergence: OnceLock<Convergence>,
}

impl Kernel {
    /// What is known of an instruction.
    #[inline(always)]
    pub fn traits_of(&self, instruction: &Instruction) -> Traits {
        self.traits.get(instruction.place as usize).copied().unwrap_or_default()
    }

    /// Where its threads meet that part.
    pub fn convergence(&self) -> &Convergence {
        self.convergence.get_or_init(|| Convergence::of(self))
    }
}

/// The bytes of local memory that frames of a thread and what it allocates can take, in kernels that have a stack.
pub const STACK: u32 = 64 << 10;

/// A function that a kernel may call.
#[derive(Clone, Debug, Default)]
pub struct Callable {
    /// Its first instruction.
    pub entry: u32,
    /// The row that holds where to return to.
    pub link: u32,
    /// Where its parameters are in local memory, or in its frame: offset and bytes.
    pub parameters: Vec<(u32, u32)>,
    /// Where its results are.
    pub results: Vec<(u32, u32)>,
    /// What is kept of a call while the function is called again, or allocates memory.
    pub frame: Option<Frame>,
}

/// A frame of a call on the stack, which starts local memory.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The row that holds where the frame starts.
    pub base: u32,
    /// Its bytes: parameters, results and local variables.
    pub bytes: u32,
    /// The registers and predicates that a call has for itself.
    pub registers: Vec<Register>,
}

/// A register or a predicate that an instruction writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As it is written.
    pub name: Box<str>,
    /// Where its value is.
    pub register: Register,
}

/// A register or a predicate that an instruction reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// It is the guard, or an address: what it holds decides what happens.
    pub decides: bool,
    /// As it is written.
    pub name: Box<str>,
    /// Where its value is.
    pub register: Register,
}

/// Where a value of a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// In rows of registers, from this one on, so many bytes of each lane.
    Rows {
        /// The first row.
        row: u32,
        /// The bytes.
        bytes: u32,
    },
    /// In a predicate, by number.
    Predicate(u32),
}

/// Kernels of a module by name.
pub type Kernels = HashMap<String, std::sync::Arc<Kernel>>;

/// What a register holds when a thread starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// A 32-bit special register that does not change.
    Special(Special),
    /// The same in a 64-bit register.
    WideSpecial(Special),
    /// The address of a shared variable at this offset.
    Shared(u32),
    /// The same in a 64-bit register.
    WideShared(u32),
}

/// Special registers that do not change while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// `%tid`
    Thread(usize),
    /// `%ntid`
    Threads(usize),
    /// `%ctaid`
    Cta(usize),
    /// `%nctaid`
    Ctas(usize),
    /// `%laneid`
    Lane,
    /// `%warpid`
    Warp,
    /// `%nwarpid`
    Warps,
    /// `%smid`
    Multiprocessor,
    /// `%nsmid`
    Multiprocessors,
    /// `%gridid`
    Grid,
    /// `%lanemask_eq`
    MaskEqual,
    /// `%lanemask_le`
    MaskUpTo,
    /// `%lanemask_lt`
    MaskBelow,
    /// `%lanemask_ge`
    MaskFrom,
    /// `%lanemask_gt`
    MaskAbove,
    /// `%clusterid`
    Cluster(usize),
    /// `%nclusterid`
    Clusters(usize),
    /// `%cluster_ctaid`
    ClusterCta(usize),
    /// `%cluster_nctaid`
    ClusterCtas(usize),
    /// `%cluster_ctarank`
    ClusterRank,
    /// `%cluster_nctarank`
    ClusterRanks,
    /// `%is_explicit_cluster`
    IsExplicitCluster,
    /// `%dynamic_smem_size`
    DynamicShared,
    /// `%total_smem_size`, `%aggr_smem_size`
    TotalShared,
    /// Always zero: `%reserved_smem_offset_*`, `%envreg*`, `%pm*`, which nobody programs to count, and `%current_graph_exec`.
    Zero,
}

impl Special {
    /// The special register of a name, without `%`.
    pub fn named(name: &str, component: Option<&str>) -> Option<Special> {
        let axis = match component {
            Some("x") => 0,
            Some("y") => 1,
            Some("z") => 2,
            // The fourth component of each.
            Some("w") => return Special::named(name, Some("x")).map(|_| Special::Zero),
            Some(_) => return None,
            None => {
                return Some(match name {
                    "laneid" => Special::Lane,
                    "warpid" => Special::Warp,
                    "nwarpid" => Special::Warps,
                    "smid" => Special::Multiprocessor,
                    "nsmid" => Special::Multiprocessors,
                    "gridid" => Special::Grid,
                    "lanemask_eq" => Special::MaskEqual,
                    "lanemask_le" => Special::MaskUpTo,
                    "lanemask_lt" => Special::MaskBelow,
                    "lanemask_ge" => Special::MaskFrom,
                    "lanemask_gt" => Special::MaskAbove,
                    "cluster_ctarank" => Special::ClusterRank,
                    "cluster_nctarank" => Special::ClusterRanks,
                    "is_explicit_cluster" => Special::IsExplicitCluster,
                    "dynamic_smem_size" => Special::DynamicShared,
                    "total_smem_size" | "aggr_smem_size" => Special::TotalShared,
                    "current_graph_exec" => Special::Zero,
                    _ if ["envreg", "reserved_smem_offset", "pm"].iter().any(|start| name.starts_with(start)) => {
                        Special::Zero
                    }
                    _ => return None,
                });
            }
        };
        Some(match name {
            "tid" => Special::Thread(axis),
            "ntid" => Special::Threads(axis),
            "ctaid" => Special::Cta(axis),
            "nctaid" => Special::Ctas(axis),
            "clusterid" => Special::Cluster(axis),
            "nclusterid" => Special::Clusters(axis),
            "cluster_ctaid" => Special::ClusterCta(axis),
            "cluster_nctaid" => Special::ClusterCtas(axis),
            _ => return None,
        })
    }
}

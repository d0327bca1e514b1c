//! Small programs with known answers.

mod arithmetic;
mod atomics;
mod barriers;
mod checked;
mod control;
mod copies;
mod corpus;
mod coverage;
mod damaged;
mod faults;
mod halves;
mod matrices;
mod memory;
mod narrow;
mod numbers;
mod products;
mod remote;
mod scalars;
mod seeded;
mod spaces;
mod spellings;
mod tensor_copies;
mod tensor_memory;
mod tensor_memory_moves;
mod tensor_moves;
mod trial;
mod video;
mod warpgroup;
mod warps;
mod wmma;

use std::cell::RefCell;
use std::sync::Arc;

use ptx_emulator::decode::Module;
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::{Grid, Limits, Summary};
use ptx_emulator::memory::global::Memory;
use ptx_emulator::tensor_core::accumulation::Accumulation;

thread_local! {
    /// The programs that this thread has run to their end, while somebody wants to know.
    static RAN: RefCell<Option<Vec<Ran>>> = const { RefCell::new(None) };
}

/// A program that ran to its end.
pub struct Ran {
    /// Its chip.
    pub target: String,
    /// What stands before the kernel.
    pub declarations: String,
    /// The kernel's body.
    pub body: String,
    /// Its instructions, as they are written.
    pub instructions: Vec<String>,
}

/// The programs that some tests run.
pub fn recorded(tests: impl FnOnce()) -> Vec<Ran> {
    RAN.set(Some(vec![]));
    tests();
    RAN.take().unwrap_or_default()
}

/// Says that a test is not run, for what is missing. It fails where the environment names what tests need, as `make test` does.
pub fn not_run(missing: &str) {
    let named = ["TESSERA_PYTHON", "TESSERA_PTXAS"].into_iter().any(|name| std::env::var_os(name).is_some());
    assert!(!named, "cannot run: {missing}");
    eprintln!("not run: {missing}");
}

/// The registers of every kernel, and what the first of them hold.
pub const PROLOGUE: &str = ".reg .pred %p<8>; .reg .b8 %rc<8>; .reg .b16 %rs<16>; .reg .b32 %r<64>; .reg .b64 %rd<32>; .reg .b128 %rq<4>;\n\
     .reg .f32 %f<64>; .reg .f64 %fd<16>;\n\
     ld.param.u64 %rd0, [buffer]; mov.u32 %r0, %tid.x;";

/// A launch of the kernel `k` of a module whose body is given, with one buffer of 64-bit words as its parameter.
pub struct Run {
    body: String,
    declarations: String,
    grid: u32,
    block: u32,
    cluster: u32,
    shared: u32,
    target: &'static str,
    accumulation: Accumulation,
    limits: Limits,
    checked: bool,
    directives: &'static str,
}

impl Run {
    /// A kernel with this body. `%rd0` holds the buffer's address, `%r0` the thread's number, and there are registers of all widths.
    pub fn new(body: &str) -> Run {
        Run {
            body: body.into(),
            declarations: String::new(),
            grid: 1,
            block: 32,
            cluster: 1,
            shared: 0,
            target: "sm_100a",
            accumulation: Accumulation::Once,
            limits: Limits::NONE,
            checked: false,
            directives: "",
        }
    }

    /// With something before the kernel.
    pub fn declare(mut self, declarations: &str) -> Run {
        self.declarations = declarations.into();
        self
    }

    /// With directives of the kernel.
    pub fn directives(mut self, directives: &'static str) -> Run {
        self.directives = directives;
        self
    }

    /// With CTAs, threads of each, and CTAs of a cluster.
    pub fn shape(mut self, grid: u32, block: u32, cluster: u32) -> Run {
        (self.grid, self.block, self.cluster) = (grid, block, cluster);
        self
    }

    /// With shared memory that the launch adds.
    pub fn shared(mut self, bytes: u32) -> Run {
        self.shared = bytes;
        self
    }

    /// For another chip.
    pub fn target(mut self, target: &'static str) -> Run {
        self.target = target;
        self
    }

    /// With the checker, which has to find nothing.
    pub fn checked(mut self) -> Run {
        self.checked = true;
        self
    }

    /// With these limits.
    pub fn limits(mut self, limits: Limits) -> Run {
        self.limits = limits;
        self
    }

    /// With products added up in another way.
    pub fn accumulation(mut self, accumulation: Accumulation) -> Run {
        self.accumulation = accumulation;
        self
    }

    fn source(&self) -> String {
        format!(
            ".version 9.2\n.target {}\n.address_size 64\n{}\n.visible .entry k(.param .u64 buffer) {} {{\n{PROLOGUE}\n{}\nret; }}",
            self.target, self.declarations, self.directives, self.body
        )
    }

    /// Loads the module; the message if that fails.
    pub fn load(&self) -> Result<(Arc<Memory>, Module), String> {
        let memory = Arc::new(if self.checked { Memory::followed() } else { Memory::default() });
        let module = Module::load("test.ptx", &self.source(), &memory, 0).map_err(|error| error.to_string())?;
        Ok((memory, module))
    }

    /// Runs it on a buffer.
    pub fn try_on(&self, buffer: &mut [u64]) -> Result<Summary, Box<Fault>> {
        let (memory, module) = self.load().unwrap_or_else(|message| panic!("{message}"));
        let address = memory.allocate(buffer.len() as u64 * 8, Some(0)).unwrap();
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.view().copy_in(address, &bytes).unwrap();
        let grid = Grid {
            kernel: module.kernel("k").unwrap(),
            extent: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            cluster: [self.cluster, 1, 1],
            dynamic_shared: self.shared,
            parameters: address.to_le_bytes().to_vec(),
            memory: memory.view(),
            multiprocessors: 32,
            seed: 0,
            accumulation: self.accumulation,
            limits: self.limits,
        };
        let (summary, reports) = if self.checked { grid.run_checked(8) } else { (grid.run(), vec![]) };
        let summary = summary?;
        assert_eq!(reports, [], "{}", self.source());
        RAN.with_borrow_mut(|ran| {
            if let Some(ran) = ran {
                ran.push(Ran {
                    target: self.target.into(),
                    declarations: self.declarations.clone(),
                    body: self.body.clone(),
                    instructions: grid.kernel.places.iter().map(|place| place.text.clone()).collect(),
                });
            }
        });
        let mut bytes = vec![0; bytes.len()];
        memory.view().copy_out(address, &mut bytes).unwrap();
        for (word, bytes) in buffer.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap());
        }
        Ok(summary)
    }

    /// The buffer after it ran on words that are zero.
    pub fn words(&self, count: usize) -> Vec<u64> {
        let mut buffer = vec![0; count];
        self.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{fault}"));
        buffer
    }

    /// The message of the fault that it ends with.
    pub fn fault(&self) -> String {
        self.try_on(&mut vec![0; 64]).expect_err("a fault").to_string()
    }
}

/// What an instruction makes of its sources. `d`, `a`, `b` and `c` in the text are registers of the widths given in bits, `p` a
/// predicate that is true; the sources are bits.
pub fn evaluate(text: &str, to: u32, sources: &[(u32, u64)]) -> u64 {
    let (mut body, mut line) = (String::new(), format!(" {text} "));
    let name = |line: &mut String, letter: char, register: &str| {
        // A letter that stands alone is an operand.
        let mut out = String::new();
        let letters: Vec<char> = line.chars().collect();
        for (at, one) in letters.iter().enumerate() {
            let part = |c: &char| c.is_alphanumeric() || matches!(c, '.' | '_' | '%');
            let alone = *one == letter && !part(&letters[at - 1]) && !part(&letters[at + 1]);
            if alone { out.push_str(register) } else { out.push(*one) }
        }
        *line = out;
    };
    for (at, (width, bits)) in sources.iter().enumerate() {
        let (letter, register) = (['a', 'b', 'c'][at], format!("v{at}"));
        body.push_str(&format!(".reg .b{width} {register}; "));
        match width {
            8 => body.push_str(&format!("{{ .reg .b16 t; mov.b16 t, {bits}; cvt.u8.u16 {register}, t; }}\n")),
            _ => body.push_str(&format!("mov.b{width} {register}, {bits};\n")),
        }
        name(&mut line, letter, &register);
    }
    name(&mut line, 'd', "result");
    name(&mut line, 'p', "%p1");
    let end = if text.ends_with('}') { "" } else { ";" };
    body.push_str(&format!(
        ".reg .b{to} result; setp.eq.u32 %p1, %r0, %r0;\n{line}{end}\nst.global.b{to} [%rd0], result;"
    ));
    Run::new(&body).words(1)[0]
}

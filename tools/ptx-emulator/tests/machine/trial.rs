//! What tests of matrix instructions share: matrices drawn at random, and instructions run on registers and shared memory.

use ptx_emulator::numeric::format::{self, Format};
use ptx_emulator::numeric::rounding::Rounding;
use ptx_emulator::tensor_core::accumulation::Accumulation;

use super::Run;

/// Numbers that look random, the same in every run.
pub struct Draw(pub u64);

impl Draw {
    /// A number below a limit.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % u64::from(limit)) as u32
    }
}

/// A lane's word in each register of an operand.
pub type Registers = Vec<[u32; 32]>;

/// Instructions that some threads run on registers and shared memory.
pub struct Trial<'t> {
    /// The chip.
    pub target: &'static str,
    /// The instructions. `$1` stands for the registers of the first operand in braces, `@1` for them without, `$0` for new ones.
    /// The address of shared memory is in `%r1`.
    pub text: &'t str,
    /// How many new registers there are.
    pub new: usize,
    /// The operands: for each register, each thread's word.
    pub operands: &'t [Vec<Vec<u32>>],
    /// Which operand's registers are read at the end; 0 for the new ones.
    pub read: usize,
    /// What is in shared memory, in words.
    pub shared: &'t [u32],
    /// How many threads a CTA has.
    pub threads: usize,
    /// How many CTAs there are, which are a cluster. Their words of shared memory and registers follow each other.
    pub ctas: usize,
    /// How sums are rounded.
    pub how: Accumulation,
}

impl<'t> Trial<'t> {
    /// Instructions of a warpgroup that change their first operand.
    pub fn of_warpgroup(text: &'t str, shared: &'t [u32]) -> Trial<'t> {
        let how = Accumulation::Once;
        Trial { target: "sm_90a", text, new: 0, operands: &[], read: 1, shared, threads: 128, ctas: 1, how }
    }

    /// Runs it: each thread's word of each register that is read.
    pub fn run(&self) -> Vec<Vec<u32>> {
        let (threads, all) = (self.threads, self.threads * self.ctas);
        let mut sizes = vec![self.new];
        sizes.extend(self.operands.iter().map(Vec::len));
        let each = (self.shared.len() / self.ctas).next_multiple_of(threads);
        let mut words = vec![];
        for part in self.shared.chunks(each.max(1)) {
            words.extend_from_slice(part);
            words.resize(words.len().next_multiple_of(each), 0);
        }
        let mut body = format!(
            "mov.u32 %r40, %ctaid.x; mad.lo.u32 %r41, %r40, {each}, %r0; mad.wide.u32 %rd1, %r41, 4, %rd0;\n\
             mad.lo.u32 %r40, %r40, {threads}, %r0;\n"
        );
        if each > 0 {
            body.push_str(&format!(
                "mov.u32 %r1, tile; mad.lo.u32 %r2, %r0, 4, %r1; mov.u32 %r3, 0;\n\
                 fill: ld.global.b32 %r4, [%rd1]; st.shared.b32 [%r2], %r4; add.u64 %rd1, %rd1, {}; add.u32 %r2, %r2, {};\n\
                 add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, {}; @%p1 bra fill;\n\
                 fence.proxy.async.shared::cta; bar.sync 0;\n",
                4 * threads,
                4 * threads,
                each / threads
            ));
        }
        let start = words.len();
        body.push_str(&format!("mad.wide.u32 %rd1, %r40, 4, %rd0; add.u64 %rd1, %rd1, {};\n", 4 * start));
        let mut text = self.text.to_string();
        for (number, size) in sizes.iter().enumerate().rev() {
            let Some(_) = size.checked_sub(1) else { continue };
            body.push_str(&format!(".reg .b32 o{number}_<{size}>;\n"));
            let names: Vec<String> = (0..*size).map(|register| format!("o{number}_{register}")).collect();
            text = text.replace(&format!("${number}"), &format!("{{{}}}", names.join(", ")));
            text = text.replace(&format!("@{number}"), &names.join(", "));
        }
        for (number, operand) in self.operands.iter().enumerate() {
            for (register, values) in operand.iter().enumerate() {
                let name = format!("o{}_{register}", number + 1);
                body.push_str(&format!("ld.global.b32 {name}, [%rd1+{}];\n", 4 * (words.len() - start)));
                words.extend_from_slice(values);
            }
        }
        body.push_str(&format!("{text}\n"));
        let first = words.len();
        for register in 0..sizes[self.read] {
            let at = 4 * (first - start + all * register);
            body.push_str(&format!("st.global.b32 [%rd1+{at}], o{}_{register};\n", self.read));
        }
        words.resize(first + all * sizes[self.read], 0);
        let mut buffer: Vec<u64> = words.chunks(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect();
        let run = Run::new(&body).target(self.target).accumulation(self.how).shape(
            self.ctas as u32,
            threads as u32,
            self.ctas as u32,
        );
        let run = run.declare(".extern .shared .align 1024 .b8 tile[];").shared(4 * each as u32);
        run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{}: {fault}", self.text));
        let words: Vec<u32> = buffer.iter().flat_map(|pair| [*pair as u32, (*pair >> 32) as u32]).collect();
        words[first..].chunks_exact(all).map(<[u32]>::to_vec).collect()
    }
}

/// Runs an instruction of a warp on registers; `$0` in its text stands for the result, `$1`, `$2`… for the operands.
pub fn warp(target: &'static str, text: &str, result: usize, operands: &[Registers], how: Accumulation) -> Registers {
    let operands: Vec<Vec<Vec<u32>>> =
        operands.iter().map(|registers| registers.iter().map(|lanes| lanes.to_vec()).collect()).collect();
    let trial =
        Trial { target, text, new: result, operands: &operands, read: 0, shared: &[], threads: 32, ctas: 1, how };
    trial.run().into_iter().map(|lanes| lanes.try_into().unwrap()).collect()
}

/// The type of a matrix's elements: how its bits become numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A floating-point format, and the bits that an element takes.
    Float(Format, u32),
    /// f32 of which the low bits do not count.
    Tf32,
    /// Bits, and whether the first is a sign.
    Integer(u32, bool),
}

impl Kind {
    /// By a name; `padded` where elements of 4 and 6 bits take a byte.
    pub fn named(name: &str, padded: bool) -> Kind {
        match name {
            "tf32" => Kind::Tf32,
            "s8" => Kind::Integer(8, true),
            "u8" => Kind::Integer(8, false),
            "s4" => Kind::Integer(4, true),
            "u4" => Kind::Integer(4, false),
            "b1" => Kind::Integer(1, false),
            "e2m1" if !padded => Kind::Float(format::E2M1, 4),
            "f16" | "bf16" => Kind::Float(Format::named(name).unwrap(), 16),
            _ => Kind::Float(Format::named(name).unwrap(), 8),
        }
    }

    /// The bits of an element in its register.
    pub fn bits(self) -> u32 {
        match self {
            Kind::Float(_, bits) | Kind::Integer(bits, _) => bits,
            Kind::Tf32 => 32,
        }
    }

    /// An element: its bits, and its value.
    pub fn draw(self, draw: &mut Draw) -> (u32, f64) {
        match self {
            Kind::Tf32 => {
                let value = (draw.below(65) as f32 - 32.0) / 8.0;
                // What is below the format's digits does not count.
                (value.to_bits() | draw.below(0x2000), f64::from(value))
            }
            Kind::Float(format, 16) => {
                let value = (f64::from(draw.below(65)) - 32.0) / 8.0;
                (format.encode(value, Rounding::Nearest, false), value)
            }
            Kind::Float(format, bits) => loop {
                let code = draw.below(1 << format.bits());
                let value = f64::from(format.decode(code));
                if value.is_finite() {
                    let container = if bits == 8 && format.bits() == 4 { code << 2 } else { code };
                    return (container, value);
                }
            },
            Kind::Integer(bits, signed) => {
                let code = draw.below(1 << bits);
                let negative = signed && code >> (bits - 1) != 0;
                (code, f64::from(code as i32 - if negative { 1 << bits } else { 0 }))
            }
        }
    }
}

/// A matrix: each element's bits and value.
pub struct Matrix {
    /// Elements of a row.
    pub columns: usize,
    /// The elements.
    pub elements: Vec<(u32, f64)>,
}

impl Matrix {
    /// At random.
    pub fn draw(rows: usize, columns: usize, kind: Kind, draw: &mut Draw) -> Matrix {
        Matrix { columns, elements: (0..rows * columns).map(|_| kind.draw(draw)).collect() }
    }

    /// The element of a row and column.
    pub fn at(&self, row: usize, column: usize) -> (u32, f64) {
        self.elements[row * self.columns + column]
    }
}

/// Packs the elements of lanes into registers: `place` gives the element of a register, lane, and number within the register.
pub fn pack(registers: usize, bits: u32, element: impl Fn(usize, usize, usize) -> u32) -> Registers {
    let each = 32 / bits as usize;
    let word =
        |register, lane| (0..each).fold(0, |word, at| word | element(register, lane, at) << (at as u32 * bits % 32));
    (0..registers).map(|register| std::array::from_fn(|lane| word(register, lane))).collect()
}

/// The structure of sparse rows: elements of a chunk, and elements that go together.
pub fn structure(kind: Kind) -> (usize, usize) {
    match kind.bits() {
        32 => (2, 1),
        4 => (8, 2),
        _ => (4, 1),
    }
}

/// A sparse matrix: what is stored, the whole, and the metadata of each row's chunks.
pub struct Sparse {
    /// What is stored of it.
    pub stored: Matrix,
    /// The whole.
    pub whole: Matrix,
    /// Four bits for each chunk of a row, in rows.
    pub metadata: Vec<u32>,
}

impl Sparse {
    /// At random.
    pub fn draw(rows: usize, depth: usize, kind: Kind, draw: &mut Draw) -> Sparse {
        Sparse::like(None, rows, depth, kind, draw)
    }

    /// At random, but with the same metadata in each row.
    pub fn draw_alike(rows: usize, depth: usize, kind: Kind, draw: &mut Draw) -> Sparse {
        let first = Sparse::draw(1, depth, kind, draw);
        Sparse::like(Some(&first.metadata), rows, depth, kind, draw)
    }

    /// At random, with the metadata of each row if it is given.
    fn like(row: Option<&[u32]>, rows: usize, depth: usize, kind: Kind, draw: &mut Draw) -> Sparse {
        let stored = Matrix::draw(rows, depth / 2, kind, draw);
        let mut whole = Matrix { columns: depth, elements: vec![(0, 0.0); rows * depth] };
        let (chunk, unit) = structure(kind);
        let mut metadata = vec![];
        for at in 0..rows * depth / chunk {
            let from = &stored.elements[at * chunk / 2..][..chunk / 2];
            let into = &mut whole.elements[at * chunk..][..chunk];
            let given = row.map(|row| row[at % row.len()]);
            if chunk == 2 {
                let odd = given.map_or_else(|| draw.below(2), |code| u32::from(code == 0b1110));
                into[odd as usize] = from[0];
                metadata.push(if odd == 1 { 0b1110 } else { 0b0100 });
                continue;
            }
            let codes = [0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110];
            let code = given.map_or_else(|| codes[draw.below(6) as usize], |code| code as usize);
            for (half, index) in [code & 3, code >> 2].into_iter().enumerate() {
                into[index * unit..][..unit].copy_from_slice(&from[half * unit..][..unit]);
            }
            metadata.push(code as u32);
        }
        Sparse { stored, whole, metadata }
    }

    /// The bits of a row from a chunk on.
    pub fn bits(&self, row: usize, first: usize, chunks: usize, kind: Kind) -> u32 {
        let each = self.whole.columns / structure(kind).0;
        let nibbles = &self.metadata[row * each..][..each];
        nibbles.iter().skip(first).take(chunks).rev().fold(0, |all, nibble| all << 4 | nibble)
    }
}

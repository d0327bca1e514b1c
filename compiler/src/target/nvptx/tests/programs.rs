//! Tile programs as the schedule writes them.

use crate::tile::{
    Access, BinaryOperation, Builder, Coordinate, Dimension, Element, GridExtent, Literal, Predicate, Program,
    Reduction, Schedule, UnaryOperation, Value,
};

pub fn all() -> Vec<Program> {
    vec![
        elementwise(),
        LARGE_MATMUL.program(),
        Matmul { name: "linear", transpose_rhs: true, epilogue: true, ..LARGE_MATMUL }.program(),
        layer_norm(),
        softmax(),
        attention(64),
        attention(128),
    ]
}

pub fn block(start: Value, length: u32) -> Coordinate {
    Coordinate::Block { start, length }
}

pub fn elementwise() -> Program {
    let mut b = Builder::new("elementwise");
    b.summary("y = gelu(x) + x");
    let n = b.integer("n", 1);
    let extent = Dimension::Argument(n);
    let x = b.contiguous("x", Element::F32, &[extent], Access::Read);
    let y = b.contiguous("y", Element::F32, &[extent], Access::Write);
    b.grid([GridExtent::Tiles { dimension: extent, block: 512 }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let pid = b.program_id(0);
    let start = b.scale(pid, 512);
    let v = b.load(x, &[block(start, 512)]);
    let g = gelu(&mut b, v);
    let sum = b.add(g, v);
    b.store(y, &[block(start, 512)], sum);
    b.finish()
}

fn gelu(b: &mut Builder, x: Value) -> Value {
    let shape = b.type_of(x).shape.clone();
    let s = b.splat(std::f64::consts::FRAC_1_SQRT_2, &shape, Element::F32);
    let t = b.multiply(x, s);
    let e = b.unary(UnaryOperation::Erf, t);
    let one = b.splat(1.0, &shape, Element::F32);
    let e = b.add(e, one);
    let half = b.splat(0.5, &shape, Element::F32);
    let h = b.multiply(x, half);
    b.multiply(h, e)
}

/// out[M,N] = lhs[M,K] · rhs, perhaps + bias, gelu, + residual.
#[derive(Clone, Copy)]
pub struct Matmul {
    pub name: &'static str,
    /// Of the left operand, which both are multiplied as.
    pub element: Element,
    /// Of the right operand in memory.
    pub weights: Element,
    pub result: Element,
    /// M, N, K.
    pub tile: [u32; 3],
    pub warps: u32,
    pub stages: u32,
    pub n: u64,
    pub k: u64,
    /// Whether the right operand is [N,K], not [K,N].
    pub transpose_rhs: bool,
    pub epilogue: bool,
}

/// The matmul whose main loop is compared with other compilers'.
pub const LARGE_MATMUL: Matmul = Matmul {
    name: "matmul",
    element: Element::BF16,
    weights: Element::BF16,
    result: Element::BF16,
    tile: [128, 128, 64],
    warps: 8,
    stages: 3,
    n: 4096,
    k: 4096,
    transpose_rhs: false,
    epilogue: false,
};

/// A matmul for small operands.
pub const SMALL_MATMUL: Matmul =
    Matmul { name: "small_matmul", tile: [32, 32, 32], warps: 4, stages: 2, n: 33, k: 33, ..LARGE_MATMUL };

impl Matmul {
    pub fn program(&self) -> Program {
        let Self { element, warps, stages, transpose_rhs, .. } = *self;
        let [bm, bn, bk] = self.tile;
        let mut b = Builder::new(self.name);
        let m = b.integer("m", 1);
        let (m, n, k) = (Dimension::Argument(m), Dimension::Constant(self.n), Dimension::Constant(self.k));
        let lhs = b.contiguous("lhs", element, &[m, k], Access::Read);
        let rhs = b.contiguous("rhs", self.weights, &if transpose_rhs { [n, k] } else { [k, n] }, Access::Read);
        let bias = b.contiguous("bias", Element::F32, &[n], Access::Read);
        let residual = b.contiguous("residual", self.result, &[m, n], Access::Read);
        let out = b.contiguous("out", self.result, &[m, n], Access::Write);
        b.grid([
            GridExtent::Tiles { dimension: n, block: bn },
            GridExtent::Tiles { dimension: m, block: bm },
            GridExtent::fixed(1),
        ]);
        b.schedule(Schedule { warps, stages });
        let (pn, pm) = (b.program_id(0), b.program_id(1));
        let (column, row) = (b.scale(pn, bn.into()), b.scale(pm, bm.into()));
        let wide = if element == Element::F64 { Element::F64 } else { Element::F32 };
        let zero = b.splat(0.0, &[bm, bn], wide);
        let (low, high) = (b.index(0), b.dimension(k));
        let mut y = b.for_loop(low, high, bk, &[zero], |b, i, carried| {
            let x = b.load(lhs, &[block(row, bm), block(i, bk)]);
            let w = if transpose_rhs {
                let w = b.load(rhs, &[block(column, bn), block(i, bk)]);
                let w = b.cast(w, element);
                b.transpose(w)
            } else {
                let w = b.load(rhs, &[block(i, bk), block(column, bn)]);
                b.cast(w, element)
            };
            vec![b.dot(x, w, carried[0])]
        })[0];
        if self.epilogue {
            let v = b.load(bias, &[block(column, bn)]);
            let v = b.broadcast(v, &[1], &[bm, bn]);
            y = b.add(y, v);
            y = gelu(&mut b, y);
            let r = b.load(residual, &[block(row, bm), block(column, bn)]);
            let r = b.cast(r, Element::F32);
            y = b.add(y, r);
        }
        let y = b.cast(y, self.result);
        b.store(out, &[block(row, bm), block(column, bn)], y);
        b.finish()
    }
}

pub fn layer_norm() -> Program {
    let mut b = Builder::new("layer_norm");
    let t = b.integer("t", 1);
    let (t, d) = (Dimension::Argument(t), Dimension::Constant(768));
    let x = b.contiguous("x", Element::BF16, &[t, d], Access::Read);
    let scale = b.contiguous("scale", Element::F32, &[d], Access::Read);
    let y = b.contiguous("y", Element::BF16, &[t, d], Access::Write);
    b.grid([GridExtent::Tiles { dimension: t, block: 1 }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let row = b.program_id(0);
    let zero = b.index(0);
    let v = b.load(x, &[Coordinate::At(row), block(zero, 1024)]);
    let v = b.cast(v, Element::F32);
    let sum = b.reduce(Reduction::Sum, v, 0);
    let inv = b.splat(1.0 / 768.0, &[], Element::F32);
    let mean = b.multiply(sum, inv);
    let mean = b.fill(mean, &[1024]);
    let c = b.subtract(v, mean);
    let i = b.iota(1024);
    let limit = b.constant(Literal::Integer(768), &[1024], Element::I32);
    let inside = b.compare(Predicate::Less, i, limit);
    let z = b.splat(0.0, &[1024], Element::F32);
    let c = b.select(inside, c, z);
    let sq = b.multiply(c, c);
    let var = b.reduce(Reduction::Sum, sq, 0);
    let var = b.multiply(var, inv);
    let eps = b.splat(1e-5, &[], Element::F32);
    let var = b.add(var, eps);
    let r = b.unary(UnaryOperation::Rsqrt, var);
    let r = b.fill(r, &[1024]);
    let n = b.multiply(c, r);
    let s = b.load(scale, &[block(zero, 1024)]);
    let n = b.multiply(n, s);
    let n = b.cast(n, Element::BF16);
    b.store(y, &[Coordinate::At(row), block(zero, 1024)], n);
    b.finish()
}

pub fn softmax() -> Program {
    let mut b = Builder::new("softmax");
    let t = b.integer("t", 1);
    let (t, d) = (Dimension::Argument(t), Dimension::Constant(129));
    let x = b.contiguous("x", Element::F32, &[t, d], Access::Read);
    let y = b.contiguous("y", Element::F32, &[t, d], Access::Write);
    b.grid([GridExtent::Tiles { dimension: t, block: 4 }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let pid = b.program_id(0);
    let row = b.scale(pid, 4);
    let zero = b.index(0);
    let v = b.load_masked(x, &[block(row, 4), block(zero, 256)], None, Some(Literal::Float(f64::NEG_INFINITY)));
    let m = b.reduce(Reduction::Maximum, v, 1);
    let m = b.broadcast(m, &[0], &[4, 256]);
    let e = b.subtract(v, m);
    let e = b.unary(UnaryOperation::Exp, e);
    let s = b.reduce(Reduction::Sum, e, 1);
    let s = b.broadcast(s, &[0], &[4, 256]);
    let p = b.divide(e, s);
    b.store(y, &[block(row, 4), block(zero, 256)], p);
    b.finish()
}

/// Causal flash attention over contiguous [S, H, D] keys and values.
pub fn attention(d: u32) -> Program {
    let element = Element::F16;
    let (bm, bn) = (128, 64);
    let mut b = Builder::new(format!("attention_d{d}"));
    let t = b.integer("t", 1);
    let (td, heads, dd) = (Dimension::Argument(t), Dimension::Constant(16), Dimension::Constant(d.into()));
    let q = b.contiguous("q", element, &[td, heads, dd], Access::Read);
    let k = b.contiguous("k", element, &[td, heads, dd], Access::Read);
    let v = b.contiguous("v", element, &[td, heads, dd], Access::Read);
    let o = b.contiguous("o", element, &[td, heads, dd], Access::Write);
    b.grid([
        GridExtent::Tiles { dimension: td, block: bm },
        GridExtent::Tiles { dimension: heads, block: 1 },
        GridExtent::fixed(1),
    ]);
    b.schedule(Schedule { warps: if d == 64 { 4 } else { 8 }, stages: if d == 64 { 3 } else { 2 } });
    let (pm, h) = (b.program_id(0), b.program_id(1));
    let row = b.scale(pm, bm.into());
    let zero = b.index(0);
    let qt = b.load(q, &[block(row, bm), Coordinate::At(h), block(zero, d)]);
    let m0 = b.splat(-1e30, &[bm], Element::F32);
    let l0 = b.splat(0.0, &[bm], Element::F32);
    let o0 = b.splat(0.0, &[bm, d], Element::F32);
    let bound = b.index(bm.into());
    let end = b.add(row, bound);
    let total = b.argument_value(t);
    let end = b.minimum(end, total);
    let rows = b.iota(bm);
    let start = b.fill(row, &[bm]);
    let rows = b.add(rows, start);
    let rows = b.broadcast(rows, &[0], &[bm, bn]);
    let results = b.for_loop(zero, end, bn, &[m0, l0, o0], |b, i, carried| {
        let (m, l, o) = (carried[0], carried[1], carried[2]);
        let kt = b.load(k, &[block(i, bn), Coordinate::At(h), block(zero, d)]);
        let vt = b.load(v, &[block(i, bn), Coordinate::At(h), block(zero, d)]);
        let kt = b.transpose(kt);
        let s0 = b.splat(0.0, &[bm, bn], Element::F32);
        let s = b.dot(qt, kt, s0);
        let scale = b.splat(std::f64::consts::LOG2_E / f64::from(d).sqrt(), &[bm, bn], Element::F32);
        let s = b.multiply(s, scale);
        let cols = b.iota(bn);
        let first = b.fill(i, &[bn]);
        let cols = b.add(cols, first);
        let cols = b.broadcast(cols, &[1], &[bm, bn]);
        let visible = b.compare(Predicate::LessEqual, cols, rows);
        let hidden = b.splat(-1e30, &[bm, bn], Element::F32);
        let s = b.select(visible, s, hidden);
        let mx = b.reduce(Reduction::Maximum, s, 1);
        let mx = b.binary(BinaryOperation::Maximum, m, mx);
        let alpha = b.subtract(m, mx);
        let alpha = b.unary(UnaryOperation::Exp2, alpha);
        let mb = b.broadcast(mx, &[0], &[bm, bn]);
        let p = b.subtract(s, mb);
        let p = b.unary(UnaryOperation::Exp2, p);
        let sum = b.reduce(Reduction::Sum, p, 1);
        let l = b.multiply(l, alpha);
        let l = b.add(l, sum);
        let ab = b.broadcast(alpha, &[0], &[bm, d]);
        let o = b.multiply(o, ab);
        let p = b.cast(p, element);
        let o = b.dot(p, vt, o);
        vec![mx, l, o]
    });
    let l = b.broadcast(results[1], &[0], &[bm, d]);
    let out = b.divide(results[2], l);
    let out = b.cast(out, element);
    b.store(o, &[block(row, bm), Coordinate::At(h), block(zero, d)], out);
    b.finish()
}

//! Elementary functions on vectors, for f32 (within 2 units in the last place) and f64.
//!
//! Each is a range reduction and a polynomial. The polynomials are near-minimax (Chebyshev) fits on the reduced range, lowest degree first; the
//! second of a pair serves f64. Nothing here calls a library.

use super::{
    emitter::{Comparison, Emitter, Machine, Ssa},
    features::{CpuFeatures, Level},
};

/// Emits elementary functions.
#[derive(Clone, Copy)]
pub(super) struct Math<'e, 'a> {
    pub(super) emitter: &'e Emitter<'a>,
    pub(super) features: &'e CpuFeatures,
}

/// Coefficients of a polynomial for f32 and for f64, lowest degree first.
struct Polynomial(&'static [f64], &'static [f64]);

/// (eʳ − 1 − r) / r² on |r| ≤ ln 2 / 2.
const EXP: Polynomial = Polynomial(
    &[0.5, 0.1666657702559799, 0.041666554662050534, 0.008363173074513711, 0.001392617611993558],
    &[
        0.5,
        0.1666666666666667,
        0.04166666666666667,
        0.008333333333326141,
        0.0013888888888883752,
        0.00019841269874800493,
        2.4801587325533363e-05,
        2.7557255425746435e-06,
        2.7557273661348637e-07,
        2.510520637395701e-08,
        2.0914679376583935e-09,
    ],
);

/// (2ʳ − 1) / r on |r| ≤ 1/2.
const EXP2: Polynomial = Polynomial(
    &[
        0.6931471880262288,
        0.24022650760568126,
        0.05550357114219078,
        0.009618082557277852,
        0.0013390863364671234,
        0.0001545316294512069,
    ],
    &[
        std::f64::consts::LN_2,
        0.24022650695910072,
        0.055504108664821625,
        0.00961812910762848,
        0.001333355814640647,
        0.00015403530393370734,
        1.5252733841556773e-05,
        1.3215486808705563e-06,
        1.0178057087733941e-07,
        7.0548973041554995e-09,
        4.4558179083360645e-10,
        2.5729324177362305e-11,
    ],
);

/// (ln(1 + f) − f + f²/2) / f³ on √½ ≤ 1 + f ≤ √2.
const LOG: Polynomial = Polynomial(
    &[
        0.33333331180030046,
        -0.24999996957950882,
        0.200007157488921,
        -0.16667802319501254,
        0.1424905764569748,
        -0.12425687331451106,
        0.1168541992348674,
        -0.11479733846637635,
        0.06971611471451178,
    ],
    &[
        0.3333333333333333,
        -0.25000000000000006,
        0.20000000000000187,
        -0.1666666666666401,
        0.14285714285649315,
        -0.12500000000449604,
        0.11111111119953218,
        -0.09999999968981615,
        0.0909090847442931,
        -0.08333334219778231,
        0.07692332367644233,
        -0.07142856773736442,
        0.0666607399972828,
        -0.062493683330542255,
        0.058908107429987304,
        -0.05572610028285413,
        0.051979802601619045,
        -0.047929379856894314,
        0.04931432109322028,
        -0.057264502758265015,
        0.0514568607669441,
        -0.02163707074370185,
    ],
);

/// (sin r − r) / r³ in r², |r| ≤ π/4.
const SIN: Polynomial = Polynomial(
    &[-0.16666664661714697, 0.008332748154085032, -0.00019587865702101875],
    &[
        -0.16666666666666666,
        0.008333333333333331,
        -0.00019841269841265063,
        2.7557319219337312e-06,
        -2.5052106231802837e-08,
        1.6058531516797758e-10,
        -7.586691094197958e-13,
    ],
);

/// (cos r − 1 + r²/2) / r⁴ in r², |r| ≤ π/4.
const COS: Polynomial = Polynomial(
    &[0.041666664658901405, -0.0013888302919113633, 2.4547916853691016e-05],
    &[
        0.041666666666666664,
        -0.0013888888888888887,
        2.4801587301584645e-05,
        -2.755731922140179e-07,
        2.0876755790721963e-09,
        -1.1470460830795304e-11,
        4.7458685530816656e-14,
    ],
);

/// (tanh x − x) / x³ in x², |x| ≤ 0.625.
const TANH: Polynomial = Polynomial(
    &[-0.33333328924525096, 0.1333276776029121, -0.05385060910837768, 0.02099575389029558, -0.006094641315356439],
    &[
        -0.3333333333333333,
        0.13333333333333333,
        -0.05396825396825307,
        0.021869488536095903,
        -0.008863235527864902,
        0.0035921279945547546,
        -0.0014558338241150836,
        0.0005900223031457671,
        -0.00023909626817792312,
        9.67663063721077e-05,
        -3.8797593516013254e-05,
        1.4830590818501296e-05,
        -4.768699504285272e-06,
        9.162820874885124e-07,
    ],
);

/// erf(x) / x in x², |x| ≤ 1.
const ERF: Polynomial = Polynomial(
    &[
        1.1283791658483509,
        -0.37612626666720334,
        0.11283594715160218,
        -0.026854212010626412,
        0.005189087423433974,
        -0.000801686428716587,
        7.875875062685488e-05,
    ],
    &[
        std::f64::consts::FRAC_2_SQRT_PI,
        -0.37612638903183754,
        0.11283791670955126,
        -0.026866170645131218,
        0.005223977625441674,
        -0.0008548327023403001,
        0.00012055332978879483,
        -1.4925650236967501e-05,
        1.6462110782018636e-06,
        -1.636576864883207e-07,
        1.4806027146128752e-08,
        -1.2277734486795524e-09,
        9.323723518153027e-11,
        -6.1967364287877e-12,
        2.8067128195611264e-13,
    ],
);

/// −ln(1 − erf t) in t − 2.5 on [1, 4] for f32; in t − 1.75 on [1, 2.5] for f64.
const ERFC_NEAR: Polynomial = Polynomial(
    &[
        7.806815276753417,
        5.352680749172653,
        0.9438936445538771,
        0.010858112935861836,
        -0.002165169871424624,
        0.000420791650625491,
        -7.738760363365704e-05,
        1.2925695868861937e-05,
        -1.6155811475435353e-06,
        7.582681969725275e-08,
    ],
    &[
        4.317863525433222,
        3.9596109008134155,
        0.9099401664967366,
        0.020538840381637065,
        -0.004624930498879008,
        0.0009640986490900352,
        -0.0001745230645241891,
        2.374146191832075e-05,
        -8.275195942467355e-07,
        -8.908519162681559e-07,
        4.019298905500233e-07,
        -1.1313808842825401e-07,
        2.3073149782615637e-08,
        -2.799369226347222e-09,
        -2.337264594129257e-10,
        2.7928501518302307e-10,
        -1.1455076287516451e-10,
        2.6736877880875158e-11,
    ],
);

/// −ln(1 − erf t) in t − 4.25 on [2.5, 6], for f64.
const ERFC_FAR: &[f64] = &[
    20.10776990146971,
    8.723775715521931,
    0.9760845763968702,
    0.0032637442792935885,
    -0.00048052875633963624,
    7.237983504010119e-05,
    -1.0879252052348108e-05,
    1.6067317995986444e-06,
    -2.3019643721294575e-07,
    3.1544799010443315e-08,
    -4.0517257631871846e-09,
    4.695664608348351e-10,
    -4.427552329719053e-11,
    2.188758286852278e-12,
    2.5361466812905967e-13,
    -1.4648023300237577e-13,
    6.079268579845277e-14,
    -1.0806025550319359e-14,
];

/// What differs between the two float formats.
struct Format {
    integer: Machine,
    mantissa: i64,
    bias: i64,
    /// 1.5 · 2^mantissa: adding it rounds to an integer.
    magic: f64,
    /// ln 2 in two parts, the first with enough trailing zeros that its products with exponents are exact.
    ln2: [f64; 2],
    /// Arguments of eˣ beyond which it is infinite, or zero.
    exp_range: [f64; 2],
    /// As `exp_range`, of 2ˣ.
    exp2_range: [f64; 2],
}

const F32: Format = Format {
    integer: Machine::I32,
    mantissa: 23,
    bias: 127,
    magic: 12582912.0,
    ln2: [0.693359375, -2.1219444005469057e-4],
    exp_range: [89.0, -104.0],
    exp2_range: [129.0, -151.0],
};

const F64: Format = Format {
    integer: Machine::I64,
    mantissa: 52,
    bias: 1023,
    magic: 6755399441055744.0,
    ln2: [0.6931471803691238, 1.9082149292705877e-10],
    exp_range: [710.0, -746.0],
    exp2_range: [1025.0, -1076.0],
};

impl<'a> Math<'_, 'a> {
    fn format(&self, x: Ssa<'a>) -> &'static Format {
        if x.machine == Machine::F64 { &F64 } else { &F32 }
    }

    fn constant(&self, x: Ssa<'a>, value: f64) -> Ssa<'a> {
        self.emitter.float(x.machine, x.lanes, value)
    }

    fn bits(&self, x: Ssa<'a>) -> Ssa<'a> {
        self.emitter.bitcast(x, self.format(x).integer, x.lanes)
    }

    fn int(&self, x: Ssa<'a>, value: i64) -> Ssa<'a> {
        self.emitter.integer(self.format(x).integer, x.lanes, value)
    }

    pub(super) fn absolute(&self, x: Ssa<'a>) -> Ssa<'a> {
        self.emitter.intrinsic("llvm.fabs", &[x], (x.machine, x.lanes))
    }

    /// The magnitude of the first with the sign of the second.
    fn copy_sign(&self, x: Ssa<'a>, sign: Ssa<'a>) -> Ssa<'a> {
        self.emitter.intrinsic("llvm.copysign", &[x, sign], (x.machine, x.lanes))
    }

    fn horner(&self, x: Ssa<'a>, coefficients: &[f64]) -> Ssa<'a> {
        let mut sum = self.constant(x, 0.0);
        for (position, &coefficient) in coefficients.iter().rev().enumerate() {
            let coefficient = self.constant(x, coefficient);
            sum = if position == 0 { coefficient } else { self.emitter.multiply_add(sum, x, coefficient) };
        }
        sum
    }

    fn polynomial(&self, x: Ssa<'a>, polynomial: &Polynomial) -> Ssa<'a> {
        self.horner(x, if x.machine == Machine::F64 { polynomial.1 } else { polynomial.0 })
    }

    /// Holds x within a range given as [largest, smallest]; NaN stays.
    fn clamp(&self, x: Ssa<'a>, [largest, smallest]: [f64; 2]) -> Ssa<'a> {
        let e = self.emitter;
        let largest = self.constant(x, largest);
        let smallest = self.constant(x, smallest);
        let x = e.select(e.compare(Comparison::Greater, x, largest), largest, x);
        e.select(e.compare(Comparison::Less, x, smallest), smallest, x)
    }

    /// x rounded to the nearest integer, as a float and as an integer; |x| below 2^22 (f32) or 2^51 (f64).
    fn round_small(&self, x: Ssa<'a>) -> (Ssa<'a>, Ssa<'a>) {
        let e = self.emitter;
        let magic = self.constant(x, self.format(x).magic);
        let shifted = e.add(x, magic);
        (e.subtract(shifted, magic), e.subtract(self.bits(shifted), self.bits(magic)))
    }

    /// x · 2ⁿ for n as a float and as an integer; the result may be denormal or infinite.
    fn scale(&self, x: Ssa<'a>, (float, n): (Ssa<'a>, Ssa<'a>)) -> Ssa<'a> {
        let e = self.emitter;
        let format = self.format(x);
        if x.machine == Machine::F32 && x.lanes == 16 && self.features.level() >= Level::V4 {
            // vscalefps: all lanes, current rounding.
            let (mask, rounding) = (e.integer(Machine::I16, 1, -1), e.integer(Machine::I32, 1, 4));
            let operands = [x, float, x, mask, rounding];
            return e.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", &operands, (Machine::F32, 16));
        }
        // In two steps, each of them a normal power.
        let half = e.shift_right_arithmetic(n, self.int(x, 1));
        let power = |n: Ssa<'a>| {
            let biased = e.add(n, self.int(x, format.bias));
            e.bitcast(e.shift_left(biased, self.int(x, format.mantissa)), x.machine, x.lanes)
        };
        e.multiply(e.multiply(x, power(half)), power(e.subtract(n, half)))
    }

    pub(super) fn exp(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let format = self.format(x);
        let x = self.clamp(x, format.exp_range);
        let (n, integer) = self.round_small(e.multiply(x, self.constant(x, std::f64::consts::LOG2_E)));
        let r = e.multiply_add(n, self.constant(x, -format.ln2[0]), x);
        let r = e.multiply_add(n, self.constant(x, -format.ln2[1]), r);
        let tail = e.multiply_add(e.multiply(r, r), self.polynomial(r, &EXP), r);
        self.scale(e.add(tail, self.constant(x, 1.0)), (n, integer))
    }

    pub(super) fn exp2(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let x = self.clamp(x, self.format(x).exp2_range);
        let (n, integer) = self.round_small(x);
        let r = e.subtract(x, n);
        self.scale(e.multiply_add(r, self.polynomial(r, &EXP2), self.constant(x, 1.0)), (n, integer))
    }

    /// x = 2ⁿ · (1 + f) with √½ ≤ 1 + f < √2, for positive finite x: (n, f).
    fn split(&self, x: Ssa<'a>) -> (Ssa<'a>, Ssa<'a>) {
        let e = self.emitter;
        let format = self.format(x);
        let smallest_normal = 2f64.powi(1 - format.bias as i32);
        let denormal = e.compare(Comparison::Less, x, self.constant(x, smallest_normal));
        let factor = 2f64.powi(format.mantissa as i32);
        let x = e.select(denormal, e.multiply(x, self.constant(x, factor)), x);
        let correction = e.select(denormal, self.int(x, -format.mantissa), self.int(x, 0));
        // Counting from √½ puts the mantissa into [√½, √2).
        let origin = if x.machine == Machine::F64 {
            std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64
        } else {
            i64::from(std::f32::consts::FRAC_1_SQRT_2.to_bits())
        };
        let above = e.subtract(self.bits(x), self.int(x, origin));
        let exponent = e.shift_right_arithmetic(above, self.int(x, format.mantissa));
        let mantissa = e.subtract(self.bits(x), e.shift_left(exponent, self.int(x, format.mantissa)));
        let f = e.subtract(e.bitcast(mantissa, x.machine, x.lanes), self.constant(x, 1.0));
        // The exponent fits in 32 bits, which every level converts without a library.
        let exponent = e.resize_signed(e.add(exponent, correction), Machine::I32);
        (e.convert("sitofp", exponent, x.machine), f)
    }

    /// ln(1 + f) − f.
    fn log_tail(&self, f: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let square = e.multiply(f, f);
        let cubic = e.multiply(e.multiply(square, f), self.polynomial(f, &LOG));
        e.multiply_add(square, self.constant(f, -0.5), cubic)
    }

    /// Values of logarithms outside the positive finite numbers.
    fn log_special(&self, x: Ssa<'a>, result: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let zero = self.constant(x, 0.0);
        let infinity = self.constant(x, f64::INFINITY);
        let result = e.select(e.compare(Comparison::Equal, x, infinity), infinity, result);
        let result = e.select(e.compare(Comparison::Equal, x, zero), self.constant(x, f64::NEG_INFINITY), result);
        let invalid = e.or(e.compare(Comparison::Less, x, zero), e.compare(Comparison::Unordered, x, x));
        e.select(invalid, self.constant(x, f64::NAN), result)
    }

    pub(super) fn log(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let [high, low] = self.format(x).ln2;
        let (n, f) = self.split(x);
        let small = e.add(self.log_tail(f), e.multiply(n, self.constant(x, low)));
        self.log_special(x, e.multiply_add(n, self.constant(x, high), e.add(f, small)))
    }

    pub(super) fn log2(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let log2_e = std::f64::consts::LOG2_E;
        // log₂ e with its lower half of the mantissa cleared, and the rest.
        let high = if x.machine == Machine::F64 {
            f64::from_bits(log2_e.to_bits() & !0xfff_ffff)
        } else {
            f64::from(f32::from_bits((log2_e as f32).to_bits() & !0xfff))
        };
        let (n, f) = self.split(x);
        let small = e.multiply(self.log_tail(f), self.constant(x, log2_e));
        let small = e.multiply_add(f, self.constant(x, log2_e - high), small);
        let sum = e.multiply_add(f, self.constant(x, high), small);
        self.log_special(x, e.add(n, sum))
    }

    pub(super) fn sqrt(&self, x: Ssa<'a>) -> Ssa<'a> {
        self.emitter.intrinsic("llvm.sqrt", &[x], (x.machine, x.lanes))
    }

    pub(super) fn rsqrt(&self, x: Ssa<'a>) -> Ssa<'a> {
        self.emitter.divide(self.constant(x, 1.0), self.sqrt(x))
    }

    pub(super) fn tanh(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let magnitude = self.absolute(x);
        let square = e.multiply(x, x);
        let near = e.multiply_add(e.multiply(square, x), self.polynomial(square, &TANH), x);
        let one = self.constant(x, 1.0);
        let exponential = self.exp(e.add(magnitude, magnitude));
        let quotient = e.divide(self.constant(x, 2.0), e.add(exponential, one));
        let far = self.copy_sign(e.subtract(one, quotient), x);
        e.select(e.compare(Comparison::Less, magnitude, self.constant(x, 0.625)), near, far)
    }

    pub(super) fn erf(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let magnitude = self.absolute(x);
        let near = e.multiply(x, self.polynomial(e.multiply(x, x), &ERF));
        let exponent = if x.machine == Machine::F64 {
            let t = self.clamp(magnitude, [6.0, 0.0]);
            let close = self.polynomial(e.subtract(t, self.constant(x, 1.75)), &ERFC_NEAR);
            let distant = self.horner(e.subtract(t, self.constant(x, 4.25)), ERFC_FAR);
            e.select(e.compare(Comparison::Less, t, self.constant(x, 2.5)), close, distant)
        } else {
            let t = self.clamp(magnitude, [4.0, 0.0]);
            self.polynomial(e.subtract(t, self.constant(x, 2.5)), &ERFC_NEAR)
        };
        let far = e.subtract(self.constant(x, 1.0), self.exp(e.negate(exponent)));
        e.select(e.compare(Comparison::Less, magnitude, self.constant(x, 1.0)), near, self.copy_sign(far, x))
    }

    /// x − n·π/2 with |result| ≤ π/4, and n, both worked out in f64. π/2 comes in three parts of 33 bits (Cody and Waite), whose products
    /// with |n| < 2²⁰ are exact, so that arguments to 1e6 keep full relative accuracy.
    fn quarter_turns(&self, x: Ssa<'a>) -> (Ssa<'a>, Ssa<'a>) {
        const PARTS: [f64; 3] = [1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21];
        let e = self.emitter;
        let wide = if x.machine == Machine::F64 { x } else { e.convert("fpext", x, Machine::F64) };
        let (n, integer) = self.round_small(e.multiply(wide, self.constant(wide, std::f64::consts::FRAC_2_PI)));
        let reduced = PARTS.iter().fold(wide, |sum, &part| e.multiply_add(n, self.constant(wide, -part), sum));
        let reduced = if x.machine == Machine::F64 { reduced } else { e.convert("fptrunc", reduced, Machine::F32) };
        (reduced, e.resize_signed(integer, self.format(x).integer))
    }

    fn sine_of_quarter(&self, reduced: Ssa<'a>, quarter: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let square = e.multiply(reduced, reduced);
        let sine = e.multiply_add(e.multiply(square, reduced), self.polynomial(square, &SIN), reduced);
        let head = e.multiply_add(square, self.constant(reduced, -0.5), self.constant(reduced, 1.0));
        let cosine = e.multiply_add(e.multiply(square, square), self.polynomial(square, &COS), head);
        let one = self.int(reduced, 1);
        let odd = e.compare(Comparison::Equal, e.and(quarter, one), one);
        let value = e.select(odd, cosine, sine);
        let two = self.int(reduced, 2);
        let negative = e.compare(Comparison::Equal, e.and(quarter, two), two);
        e.select(negative, e.negate(value), value)
    }

    pub(super) fn sin(&self, x: Ssa<'a>) -> Ssa<'a> {
        let (reduced, quarter) = self.quarter_turns(x);
        self.sine_of_quarter(reduced, quarter)
    }

    pub(super) fn cos(&self, x: Ssa<'a>) -> Ssa<'a> {
        let (reduced, quarter) = self.quarter_turns(x);
        self.sine_of_quarter(reduced, self.emitter.add(quarter, self.int(x, 1)))
    }

    /// Largest integer not above x.
    pub(super) fn floor(&self, x: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        if self.features.level() >= Level::V3 {
            return e.intrinsic("llvm.floor", &[x], (x.machine, x.lanes));
        }
        // Without SSE4.1: numbers this large are integers; others round by addition, and down again if that went up.
        let limit = 2f64.powi(self.format(x).mantissa as i32);
        let magnitude = self.absolute(x);
        let rounded = e.subtract(e.add(magnitude, self.constant(x, limit)), self.constant(x, limit));
        let rounded = self.copy_sign(rounded, x);
        let above = e.compare(Comparison::Greater, rounded, x);
        let floor = self.copy_sign(e.select(above, e.subtract(rounded, self.constant(x, 1.0)), rounded), x);
        e.select(e.compare(Comparison::Less, magnitude, self.constant(x, limit)), floor, x)
    }

    /// Remainder of a / b with the sign of a. Long division in steps of 2²⁸, each of which is exact in f64.
    pub(super) fn remainder(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let wide = |x: Ssa<'a>| if x.machine == Machine::F64 { x } else { e.convert("fpext", x, Machine::F64) };
        let divisor = self.absolute(wide(b));
        let start = self.absolute(wide(a));
        let zero = self.constant(divisor, 0.0);
        let infinity = self.constant(divisor, f64::INFINITY);
        let invalid = e.or(
            e.compare(Comparison::Equal, start, infinity),
            e.or(
                e.compare(Comparison::Equal, divisor, zero),
                e.or(e.compare(Comparison::Unordered, start, divisor), e.compare(Comparison::Equal, divisor, infinity)),
            ),
        );
        let safe_divisor = e.select(invalid, self.constant(divisor, 1.0), divisor);
        let safe_start = e.select(invalid, zero, start);
        // 12 steps cover every pair of f32; 80 every pair of f64. Settled lanes stay as they are.
        let steps = if a.machine == Machine::F64 { 80 } else { 12 };
        let mask = e.integer(Machine::I64, divisor.lanes, if a.machine == Machine::F64 { -1 << 26 } else { -1 << 24 });
        let results = e.for_range(e.index(0), e.index(steps), e.index(1), &[safe_start], |_, carried| {
            let rest = carried[0];
            let quotient = e.divide(rest, safe_divisor);
            let capped =
                e.bitcast(e.and(e.bitcast(quotient, Machine::I64, quotient.lanes), mask), Machine::F64, quotient.lanes);
            let next = e.subtract(rest, e.multiply(self.floor(capped), safe_divisor));
            let negative = e.compare(Comparison::Less, next, zero);
            vec![e.select(negative, e.add(next, safe_divisor), next)]
        });
        let narrow = if a.machine == Machine::F64 { results[0] } else { e.convert("fptrunc", results[0], a.machine) };
        let signed = self.copy_sign(narrow, a);
        let unordered = e.or(
            e.compare(Comparison::Unordered, a, b),
            e.compare(Comparison::Equal, self.absolute(a), self.constant(a, f64::INFINITY)),
        );
        let no_divisor = e.compare(Comparison::Equal, b, self.constant(b, 0.0));
        let endless = e.compare(Comparison::Equal, self.absolute(b), self.constant(b, f64::INFINITY));
        let result = e.select(endless, a, signed);
        e.select(e.or(unordered, no_divisor), self.constant(a, f64::NAN), result)
    }

    /// aᵇ, worked out in f64 as 2^(b·log₂|a|).
    pub(super) fn power(&self, a: Ssa<'a>, b: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let wide = |x: Ssa<'a>| if x.machine == Machine::F64 { x } else { e.convert("fpext", x, Machine::F64) };
        let (base, exponent) = (wide(a), wide(b));
        let one = self.constant(base, 1.0);
        let zero = self.constant(base, 0.0);
        // ±1 to any power is ±1, to an infinite one too.
        let unit = e.compare(Comparison::Equal, self.absolute(base), one);
        let magnitude = self.exp2(e.multiply(exponent, self.log2(self.absolute(base))));
        let magnitude = e.select(unit, one, magnitude);
        let whole = self.floor(exponent);
        let half = e.multiply(whole, self.constant(base, 0.5));
        let integer = e.compare(Comparison::Equal, whole, exponent);
        let odd = e.and(integer, e.compare(Comparison::NotEqual, self.floor(half), half));
        let negative_base = e.compare(Comparison::Less, self.copy_sign(one, base), zero);
        let result = e.select(e.and(negative_base, odd), e.negate(magnitude), magnitude);
        let infinity = self.constant(base, f64::INFINITY);
        let finite = e.compare(Comparison::NotEqual, self.absolute(base), infinity);
        let finite_negative = e.and(e.compare(Comparison::Less, base, zero), finite);
        let no_integer = e.compare(Comparison::NotEqual, whole, exponent);
        let result = e.select(e.and(finite_negative, no_integer), self.constant(base, f64::NAN), result);
        let trivial = e.or(e.compare(Comparison::Equal, exponent, zero), e.compare(Comparison::Equal, base, one));
        let result = e.select(trivial, one, result);
        if a.machine == Machine::F64 { result } else { e.convert("fptrunc", result, a.machine) }
    }
}

//! Functions of one tensor, element by element: activations, rounding, conversions.
//!
//! A curve has a fast form on `f32` (fixed polynomials) and an exact one on `f64`. A step writes over its input where nothing else
//! reads it.

use std::sync::Arc;

use super::super::graph::Node;
use super::super::math;
use super::super::tensor::{Tensor, Type};
use super::super::value::{
    Builder, Labels, Run, Step, Value, arena_input, arg, constant, input, maybe,
};
use super::{Op, noted, op};
use crate::numerics::{self, erf, exp, exp_m1, gelu, ln, sigmoid, softplus, tanh};

/// Constants of Selu, as ONNX gives them.
const SELU: (f32, f32) = (1.673_263_2, 1.050_701);

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) enum Curve {
    Abs,
    Ceil,
    Celu(f32),
    Clamp(f32, f32),
    Cos,
    Elu(f32),
    Erf,
    Exp,
    Floor,
    Gelu,
    GeluTanh,
    HardSigmoid(f32, f32),
    HardSwish,
    IsInf,
    IsNan,
    LeakyRelu(f32),
    Log,
    Mish,
    Neg,
    NonZero,
    Not,
    Reciprocal,
    Relu,
    Round,
    Selu(f32, f32),
    Sigmoid,
    Sign,
    Sin,
    Softplus,
    Softsign,
    Sqrt,
    Swish(f32),
    Tanh,
    ThresholdedRelu(f32),
    Trunc,
}

impl Curve {
    /// Every value replaced, in place.
    pub(in super::super) fn apply(self, values: &mut [f32]) {
        numerics::dispatch(
            #[inline(always)]
            || self.apply_body(values),
        );
    }

    #[inline(always)]
    fn apply_body(self, values: &mut [f32]) {
        match self {
            Self::Relu => each(values, |x| if x < 0.0 { 0.0 } else { x }),
            Self::Tanh => each(values, tanh),
            Self::Sigmoid => each(values, sigmoid),
            Self::Exp => each(values, exp),
            Self::LeakyRelu(alpha) => each(values, |x| if x < 0.0 { alpha * x } else { x }),
            Self::Elu(alpha) => each(values, |x| if x < 0.0 { alpha * exp_m1(x) } else { x }),
            Self::Celu(alpha) => each(values, |x| {
                if x < 0.0 {
                    alpha * exp_m1(x / alpha)
                } else {
                    x
                }
            }),
            Self::Selu(alpha, gamma) => each(values, |x| {
                let y = if x < 0.0 { alpha * exp_m1(x) } else { x };
                gamma * y
            }),
            Self::Erf => each(values, erf),
            Self::Gelu => each(values, gelu),
            Self::GeluTanh => each(values, |x| {
                let inside = 0.044_715_f32.mul_add(x * x * x, x);
                0.5 * x * (1.0 + tanh(0.797_884_6 * inside))
            }),
            Self::Softplus => each(values, softplus),
            Self::Mish => each(values, |x| x * tanh(softplus(x))),
            Self::Swish(alpha) => each(values, |x| x * sigmoid(alpha * x)),
            Self::HardSigmoid(alpha, beta) => {
                each(values, |x| clamp(alpha * x + beta, 0.0, 1.0));
            }
            Self::HardSwish => each(values, |x| x * clamp(x / 6.0 + 0.5, 0.0, 1.0)),
            Self::Clamp(low, high) => each(values, |x| clamp(x, low, high)),
            _ => self.apply_rare(values),
        }
    }

    #[inline(always)]
    fn apply_rare(self, values: &mut [f32]) {
        match self {
            Self::Abs => each(values, f32::abs),
            Self::Neg => each(values, |x| -x),
            Self::Sqrt => each(values, f32::sqrt),
            Self::Log => each(values, ln),
            Self::Reciprocal => each(values, |x| 1.0 / x),
            Self::Sin => each(values, math::sin),
            Self::Cos => each(values, math::cos),
            Self::Ceil => each(values, f32::ceil),
            Self::Floor => each(values, f32::floor),
            Self::Round => each(values, f32::round_ties_even),
            Self::Trunc => each(values, f32::trunc),
            Self::Sign => each(values, |x| {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    x.signum()
                }
            }),
            Self::Softsign => each(values, |x| x / (1.0 + x.abs())),
            Self::ThresholdedRelu(alpha) => each(values, |x| if x > alpha { x } else { 0.0 }),
            Self::IsNan => each(values, |x| f32::from(x.is_nan())),
            Self::IsInf => each(values, |x| f32::from(x.is_infinite())),
            Self::NonZero => each(values, |x| f32::from(x != 0.0)),
            Self::Not => each(values, |x| f32::from(x == 0.0)),
            _ => {}
        }
    }

    /// The same, exactly.
    pub(in super::super) fn exact(self, x: f64) -> f64 {
        let negative = |alpha: f32, x: f64| f64::from(alpha) * x.exp_m1();
        match self {
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Tanh => x.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Exp => x.exp(),
            Self::LeakyRelu(alpha) => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            Self::Elu(alpha) => {
                if x < 0.0 {
                    negative(alpha, x)
                } else {
                    x
                }
            }
            Self::Celu(alpha) => {
                if x < 0.0 {
                    negative(alpha, x / f64::from(alpha))
                } else {
                    x
                }
            }
            Self::Selu(alpha, gamma) => {
                f64::from(gamma) * if x < 0.0 { negative(alpha, x) } else { x }
            }
            Self::Erf => erf_exact(x),
            Self::Gelu => 0.5 * x * (1.0 + erf_exact(x / 2_f64.sqrt())),
            Self::GeluTanh => {
                let scale = (2.0 / std::f64::consts::PI).sqrt();
                0.5 * x * (1.0 + (scale * (x + 0.044_715 * x.powi(3))).tanh())
            }
            Self::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Self::Mish => x * Self::Softplus.exact(x).tanh(),
            Self::Swish(alpha) => x * Self::Sigmoid.exact(f64::from(alpha) * x),
            Self::HardSigmoid(alpha, beta) => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Clamp(low, high) => {
                let x = if x < f64::from(low) {
                    f64::from(low)
                } else {
                    x
                };
                if x > f64::from(high) {
                    f64::from(high)
                } else {
                    x
                }
            }
            _ => self.exact_rare(x),
        }
    }

    fn exact_rare(self, x: f64) -> f64 {
        let truth = |holds: bool| f64::from(u8::from(holds));
        match self {
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Sqrt => x.sqrt(),
            Self::Log => x.ln(),
            Self::Reciprocal => 1.0 / x,
            Self::Sin => x.sin(),
            Self::Cos => x.cos(),
            Self::Ceil => x.ceil(),
            Self::Floor => x.floor(),
            Self::Round => x.round_ties_even(),
            Self::Sign => {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    x.signum()
                }
            }
            Self::Softsign => x / (1.0 + x.abs()),
            Self::ThresholdedRelu(alpha) => {
                if x > f64::from(alpha) {
                    x
                } else {
                    0.0
                }
            }
            Self::IsNan => truth(x.is_nan()),
            Self::IsInf => truth(x.is_infinite()),
            Self::NonZero => truth(x != 0.0),
            Self::Not => truth(x == 0.0),
            _ => x.trunc(),
        }
    }

    fn gives(self, from: Type) -> Type {
        match self {
            Self::IsNan | Self::IsInf | Self::Not | Self::NonZero => Type::Bool,
            _ => from,
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
    for value in values {
        *value = function(*value);
    }
}

/// NaN stays NaN.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// The error function by a series without cancellation: `2/sqrt(pi) e^(-x^2) * sum 2^n x^(2n+1) / (2n+1)!!`.
pub(in super::super) fn erf_exact(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    } else if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

/// The curve of a node, its parameters read.
pub(in super::super) fn curve(node: &Node) -> Result<Curve, String> {
    let float = |name: &str, otherwise: f32| node.float(name, otherwise);
    Ok(match node.op.as_str() {
        "Celu" => Curve::Celu(float("alpha", 1.0)?),
        "Elu" => Curve::Elu(float("alpha", 1.0)?),
        "Gelu" => match node.text("approximate", "none")? {
            "none" => Curve::Gelu,
            "tanh" => Curve::GeluTanh,
            other => return Err(format!("attribute approximate is {other:?}")),
        },
        "HardSigmoid" => Curve::HardSigmoid(float("alpha", 0.2)?, float("beta", 0.5)?),
        "LeakyRelu" => Curve::LeakyRelu(float("alpha", 0.01)?),
        "Selu" => Curve::Selu(float("alpha", SELU.0)?, float("gamma", SELU.1)?),
        "Swish" => Curve::Swish(float("alpha", 1.0)?),
        "ThresholdedRelu" => Curve::ThresholdedRelu(float("alpha", 1.0)?),
        other => named(other).ok_or_else(|| format!("{other} is no function of one number"))?,
    })
}

/// A curve without parameters, by its operator.
pub(in super::super) fn named(op: &str) -> Option<Curve> {
    Some(match op {
        "Abs" => Curve::Abs,
        "Ceil" => Curve::Ceil,
        "Cos" => Curve::Cos,
        "Erf" => Curve::Erf,
        "Exp" => Curve::Exp,
        "Floor" => Curve::Floor,
        "HardSwish" => Curve::HardSwish,
        "IsInf" => Curve::IsInf,
        "IsNaN" => Curve::IsNan,
        "Log" => Curve::Log,
        "Mish" => Curve::Mish,
        "Neg" => Curve::Neg,
        "Not" => Curve::Not,
        "Reciprocal" => Curve::Reciprocal,
        "Relu" => Curve::Relu,
        "Round" => Curve::Round,
        "Sigmoid" => Curve::Sigmoid,
        "Sign" => Curve::Sign,
        "Sin" => Curve::Sin,
        "Softplus" => Curve::Softplus,
        "Softsign" => Curve::Softsign,
        "Sqrt" => Curve::Sqrt,
        "Tanh" => Curve::Tanh,
        _ => return None,
    })
}

fn eval(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    Ok(vec![eval_curve(curve(node)?, arg(inputs, 0)?)?])
}

fn eval_curve(curve: Curve, x: &Tensor) -> Result<Tensor, String> {
    let values = x.values()?.iter().map(|x| curve.exact(*x)).collect();
    Ok(Tensor::numbers(curve.gives(x.ty), x.shape.clone(), values))
}

fn build(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    Ok(vec![
        build_curve(builder, curve(node)?, &node.inputs[0], &x)?.into(),
    ])
}

/// The curve of `x`, which the graph calls `name`; over it where nothing else reads it.
pub(in super::super) fn build_curve(
    builder: &mut Builder,
    curve: Curve,
    name: &str,
    x: &Run,
) -> Result<Run, String> {
    let ty = curve.gives(x.ty);
    if builder.is_last_use(name, x) {
        builder.push(Each {
            curve,
            from: x.at,
            at: x.at,
            len: x.len(),
        });
        return Ok(Run {
            ty,
            names: None,
            chosen: false,
            ..x.clone()
        });
    }
    let out = builder.fresh(ty, x.shape.clone())?;
    builder.push(Each {
        curve,
        from: x.at,
        at: out.at,
        len: x.len(),
    });
    Ok(out)
}

/// A curve over a place; `from` and `at` are one place or do not touch.
struct Each {
    curve: Curve,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for Each {
    fn run(&self, arena: &mut [f32]) {
        if self.from != self.at {
            arena.copy_within(self.from..self.from + self.len, self.at);
        }
        self.curve.apply(&mut arena[self.at..self.at + self.len]);
    }
}

fn clip_bounds(node: &Node, low: Option<&Tensor>, high: Option<&Tensor>) -> Result<Curve, String> {
    let bound = |tensor: Option<&Tensor>, name: &str, otherwise: f32| match tensor {
        Some(tensor) => Ok(tensor.scalar()? as f32),
        None => node.float(name, otherwise),
    };
    Ok(Curve::Clamp(
        bound(low, "min", f32::NEG_INFINITY)?,
        bound(high, "max", f32::INFINITY)?,
    ))
}

fn eval_clip(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let curve = clip_bounds(node, maybe(inputs, 1), maybe(inputs, 2))?;
    Ok(vec![eval_curve(curve, arg(inputs, 0)?)?])
}

fn build_clip(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let low = constant(inputs, 1, "min")?;
    let curve = clip_bounds(node, low, constant(inputs, 2, "max")?)?;
    let x = arena_input(builder, inputs, 0)?;
    Ok(vec![
        build_curve(builder, curve, &node.inputs[0], &x)?.into(),
    ])
}

/// The type a cast goes to.
fn target(node: &Node, like: Option<Type>) -> Result<Type, String> {
    match like {
        Some(ty) if node.op == "CastLike" => Ok(ty),
        _ => Type::from_code(node.int("to", 0)?),
    }
}

fn eval_cast(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let to = target(node, maybe(inputs, 1).map(|like| like.ty))?;
    Ok(vec![cast(arg(inputs, 0)?, to)?])
}

fn cast(x: &Tensor, to: Type) -> Result<Tensor, String> {
    if to == x.ty {
        return Ok(x.clone());
    }
    if to == Type::Text {
        if x.ty.is_float() {
            return Err("floats to strings are not supported".to_owned());
        }
        let texts = x.to_ints()?.iter().map(ToString::to_string).collect();
        return Ok(Tensor::texts(x.shape.clone(), texts));
    }
    let numbers = match &x.data {
        super::super::tensor::Data::Numbers(numbers) => numbers.clone(),
        super::super::tensor::Data::Texts(texts) => texts
            .iter()
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| format!("{text:?} is no number"))
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Tensor::numbers(to, x.shape.clone(), numbers))
}

fn build_cast(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let to = target(
        node,
        super::super::value::optional(inputs, 1).map(Value::ty),
    )?;
    let x = match input(inputs, 0)? {
        Value::Run(x) => x,
        Value::Known(x) => return Ok(vec![cast(x, to)?.into()]),
    };
    if let Some(labels) = &x.labels
        && let Some(labels) = cast_labels(labels, to)?
    {
        return Ok(vec![
            Run {
                ty: to,
                labels: Some(Arc::new(labels)),
                ..x.clone()
            }
            .into(),
        ]);
    }
    let x = builder.plain(x)?;
    let curve = match (x.ty, to) {
        (_, Type::Text) => return Err("numbers to strings are not supported".to_owned()),
        (Type::Float | Type::Double, Type::Int) => Curve::Trunc,
        (Type::Float | Type::Double | Type::Int, Type::Bool) => Curve::NonZero,
        _ => return Ok(vec![Run { ty: to, ..x }.into()]),
    };
    let out = build_curve(builder, curve, &node.inputs[0], &x)?;
    Ok(vec![Run { ty: to, ..out }.into()])
}

/// Labels as the type asks for them; `None` where numbers are wanted instead.
fn cast_labels(labels: &Labels, to: Type) -> Result<Option<Labels>, String> {
    Ok(match (labels, to) {
        (Labels::Ints(values), Type::Int) => Some(Labels::Ints(values.clone())),
        (Labels::Ints(_), Type::Text) => Some(Labels::Texts(labels.names().to_vec())),
        (Labels::Texts(texts), Type::Text) => Some(Labels::Texts(texts.clone())),
        (Labels::Texts(texts), _) => {
            let number = |text: &String| {
                text.trim()
                    .parse::<i64>()
                    .map_err(|_| format!("{text:?} is no whole number"))
            };
            let numbers = texts.iter().map(number).collect::<Result<_, _>>()?;
            if to == Type::Int {
                Some(Labels::Ints(numbers))
            } else {
                return Err("strings to this type are not supported".to_owned());
            }
        }
        (Labels::Ints(_), _) => None,
    })
}

const NONE: &[&str] = &[];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op("Abs", 6, NONE, eval, build),
    noted(
        "Cast",
        6,
        &["to", "saturate", "round_mode"],
        "float16 and bfloat16 are refused; doubles that a row computes are carried as floats; a number that a narrow integer type cannot hold stays as it is, where ONNX Runtime wraps it around",
        eval_cast,
        build_cast,
    ),
    noted(
        "CastLike",
        15,
        &["saturate", "round_mode"],
        "as Cast",
        eval_cast,
        build_cast,
    ),
    op("Ceil", 6, NONE, eval, build),
    op("Celu", 12, &["alpha"], eval, build),
    noted(
        "Clip",
        6,
        &["min", "max"],
        "constant bounds",
        eval_clip,
        build_clip,
    ),
    op("Cos", 7, NONE, eval, build),
    op("Elu", 6, &["alpha"], eval, build),
    op("Erf", 9, NONE, eval, build),
    op("Exp", 6, NONE, eval, build),
    op("Floor", 6, NONE, eval, build),
    op("Gelu", 20, &["approximate"], eval, build),
    op("HardSigmoid", 6, &["alpha", "beta"], eval, build),
    op("HardSwish", 14, NONE, eval, build),
    op("IsInf", 10, NONE, eval, build),
    op("IsNaN", 9, NONE, eval, build),
    op("LeakyRelu", 6, &["alpha"], eval, build),
    op("Log", 6, NONE, eval, build),
    op("Mish", 18, NONE, eval, build),
    op("Neg", 6, NONE, eval, build),
    op("Not", 1, NONE, eval, build),
    op("Reciprocal", 6, NONE, eval, build),
    op("Relu", 6, NONE, eval, build),
    op("Round", 11, NONE, eval, build),
    op("Selu", 6, &["alpha", "gamma"], eval, build),
    op("Sigmoid", 6, NONE, eval, build),
    op("Sign", 9, NONE, eval, build),
    op("Sin", 7, NONE, eval, build),
    op("Softplus", 1, NONE, eval, build),
    op("Softsign", 1, NONE, eval, build),
    op("Sqrt", 6, NONE, eval, build),
    op("Swish", 24, &["alpha"], eval, build),
    op("Tanh", 6, NONE, eval, build),
    op("ThresholdedRelu", 10, &["alpha"], eval, build),
];

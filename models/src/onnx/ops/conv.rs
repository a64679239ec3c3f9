//! Convolution and pooling: windows over one to three dimensions, worked out as lists of places.
//!
//! `Conv` gathers each patch (a place outside reads 0) and runs a layer over it, all outputs of one position at once.

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, check_work, checked_len, strides};
use super::super::value::{Builder, Step, Value, arena_input, arg, constant, maybe};
use super::reduce::{Fold, Reduce};
use super::{Op, noted, op};
use crate::numerics;

pub(super) const ATTRIBUTES: &[&str] = &[
    "auto_pad",
    "dilations",
    "group",
    "kernel_shape",
    "pads",
    "strides",
];

/// Where the windows lie over the spatial dimensions.
struct Windows {
    /// Spatial shape of the output.
    out: Vec<usize>,
    /// Of each output position and each tap, row-major: the place in the spatial input; `None` for padding.
    taps: Vec<Option<usize>>,
    /// Whether a tap lies in the declared padding rather than beyond it; for averages that count the padding.
    counted: Vec<bool>,
    /// Taps of one window.
    each: usize,
}

/// Of one dimension: the index at each tap of each position, and the declared end of the padded input.
struct Axis {
    size: i64,
    count: usize,
    taps: usize,
    step: i64,
    dilation: i64,
    before: i64,
    after: i64,
}

impl Axis {
    fn index(&self, position: usize, tap: usize) -> i64 {
        position as i64 * self.step + tap as i64 * self.dilation - self.before
    }
}

impl Windows {
    fn of(node: &Node, spatial: &[usize], kernel: &[usize]) -> Result<Self, String> {
        let rank = spatial.len();
        if !(1..=3).contains(&rank) || kernel.len() != rank || spatial.contains(&0) {
            return Err(format!("a kernel of {kernel:?} over {spatial:?}"));
        }
        let list = |name: &str, otherwise: usize| {
            let sizes = node.sizes(name)?;
            match sizes.len() {
                0 => Ok(vec![otherwise; rank]),
                len if len == rank && sizes.iter().all(|size| *size > 0) => Ok(sizes),
                _ => Err(format!("attribute {name} is {sizes:?} over {spatial:?}")),
            }
        };
        let (steps, dilations) = (list("strides", 1)?, list("dilations", 1)?);
        let axes = (0..rank)
            .map(|i| axis(node, i, spatial[i], kernel[i], steps[i], dilations[i], rank))
            .collect::<Result<Vec<_>, _>>()?;
        Self::over(&axes)
    }

    fn over(axes: &[Axis]) -> Result<Self, String> {
        let out: Vec<usize> = axes.iter().map(|axis| axis.count).collect();
        let kernel: Vec<usize> = axes.iter().map(|axis| axis.taps).collect();
        let spatial: Vec<usize> = axes.iter().map(|axis| axis.size as usize).collect();
        let each: usize = kernel.iter().product();
        let positions = checked_len(&out)?;
        checked_len(&[positions, each])?;
        let own = strides(&spatial);
        let (out_strides, tap_strides) = (strides(&out), strides(&kernel));
        let mut taps = Vec::with_capacity(positions * each);
        let mut counted = Vec::with_capacity(positions * each);
        for position in 0..positions {
            for tap in 0..each {
                let (mut place, mut inside, mut counts) = (0, true, true);
                for (i, axis) in axes.iter().enumerate() {
                    let index = axis.index(
                        position / out_strides[i] % out[i],
                        tap / tap_strides[i] % kernel[i],
                    );
                    inside &= (0..axis.size).contains(&index);
                    counts &= index < axis.size + axis.after;
                    place += index.max(0) as usize * own[i];
                }
                taps.push(inside.then_some(place));
                counted.push(counts);
            }
        }
        Ok(Self {
            out,
            taps,
            counted,
            each,
        })
    }
}

fn axis(
    node: &Node,
    i: usize,
    size: usize,
    taps: usize,
    step: usize,
    dilation: usize,
    rank: usize,
) -> Result<Axis, String> {
    let pads = node.sizes("pads")?;
    let wide = (taps.max(1) - 1) * dilation + 1;
    let (before, after) = match node.text("auto_pad", "NOTSET")? {
        "NOTSET" | "" if pads.is_empty() => (0, 0),
        "NOTSET" | "" if pads.len() == 2 * rank => (pads[i], pads[i + rank]),
        "VALID" => (0, 0),
        auto @ ("SAME_UPPER" | "SAME_LOWER") => {
            let all = ((size.div_ceil(step) - 1) * step + wide).saturating_sub(size);
            let less = all / 2;
            if auto == "SAME_UPPER" {
                (less, all - less)
            } else {
                (all - less, less)
            }
        }
        other => return Err(format!("padding {other} {pads:?} is not supported")),
    };
    let room = (size + before + after)
        .checked_sub(wide)
        .filter(|_| taps > 0)
        .ok_or_else(|| {
            format!("a window of {wide} over {size} with padding {before} and {after}")
        })?;
    let up = node.flag("ceil_mode", false)?;
    let mut count = if up { room.div_ceil(step) } else { room / step } + 1;
    // A window that would begin in the padding behind the input is left out.
    if up && (count - 1) * step >= size + before {
        count -= 1;
    }
    Ok(Axis {
        size: size as i64,
        count,
        taps,
        step: step as i64,
        dilation: dilation as i64,
        before: before as i64,
        after: after as i64,
    })
}

/// Batches, channels and the spatial dimensions of an input.
fn split(shape: &[usize]) -> Result<(usize, usize, &[usize]), String> {
    match shape {
        [batch, channels, spatial @ ..] if !spatial.is_empty() => Ok((*batch, *channels, spatial)),
        _ => Err(format!("shape {shape:?} has no channels and positions")),
    }
}

/// A convolution's sizes.
struct Layout {
    windows: Windows,
    batch: usize,
    groups: usize,
    /// Channels of one group.
    inputs: usize,
    outputs: usize,
    /// Numbers of one channel of the input.
    plane: usize,
    shape: Vec<usize>,
    /// Multiplications.
    work: usize,
}

impl Layout {
    fn of(
        node: &Node,
        x: &[usize],
        weights: &[usize],
        bias: Option<&Tensor>,
    ) -> Result<Self, String> {
        let (batch, channels, spatial) = split(x)?;
        let (all, inputs, kernel) = split(weights)?;
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0);
        let fits =
            groups > 0 && channels == inputs * groups && all % groups == 0 && all > 0 && inputs > 0;
        if !fits || bias.is_some_and(|bias| bias.shape != [all]) {
            return Err(format!(
                "weights {weights:?} in {groups} groups over shape {x:?}"
            ));
        }
        let named = node.sizes("kernel_shape")?;
        if !named.is_empty() && named != kernel {
            return Err(format!("kernel_shape {named:?} of weights {weights:?}"));
        }
        let windows = Windows::of(node, spatial, kernel)?;
        let mut shape = vec![batch, all];
        shape.extend(&windows.out);
        let len = checked_len(&shape)?;
        let work = check_work(&[len, inputs, windows.each])?;
        Ok(Self {
            work,
            windows,
            batch,
            groups,
            inputs,
            outputs: all / groups,
            plane: spatial.iter().product(),
            shape,
        })
    }

    fn positions(&self) -> usize {
        self.windows.out.iter().product()
    }
}

pub(super) fn eval(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (x, weights, bias) = (arg(inputs, 0)?, arg(inputs, 1)?, maybe(inputs, 2));
    let layout = Layout::of(node, &x.shape, &weights.shape, bias)?;
    let (xs, ws) = (x.values()?, weights.values()?);
    let each = layout.windows.each;
    let channels = layout.groups * layout.inputs;
    let mut values = Vec::new();
    for batch in 0..layout.batch {
        for output in 0..layout.groups * layout.outputs {
            let first = batch * channels + output / layout.outputs * layout.inputs;
            let start = match bias {
                Some(bias) => bias.values()?[output],
                None => 0.0,
            };
            for taps in layout.windows.taps.chunks_exact(each) {
                let mut sum = start;
                for channel in 0..layout.inputs {
                    let plane = &xs[(first + channel) * layout.plane..];
                    let weights = &ws[(output * layout.inputs + channel) * each..];
                    for (tap, weight) in taps.iter().zip(weights) {
                        sum += tap.map_or(0.0, |tap| plane[tap] * weight);
                    }
                }
                values.push(sum);
            }
        }
    }
    Ok(vec![Tensor::numbers(x.ty, layout.shape, values)])
}

pub(super) fn work(node: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    let (x, weights) = (arg(inputs, 0)?, arg(inputs, 1)?);
    Ok(Layout::of(node, &x.shape, &weights.shape, maybe(inputs, 2))?.work)
}

pub(super) fn build(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let weights = constant(inputs, 1, "the weights")?.ok_or("input 1 is missing")?;
    let bias = constant(inputs, 2, "the bias")?;
    let x = arena_input(builder, inputs, 0)?;
    let layout = Layout::of(node, &x.shape, &weights.shape, bias)?;
    if layout.batch != 1 {
        return Err(format!("shape {:?}: one row has one batch entry", x.shape));
    }
    let bias = match bias {
        Some(bias) => bias.to_floats()?,
        None => vec![0.0; layout.groups * layout.outputs],
    };
    let patch = layout.inputs * layout.windows.each;
    let flat = weights.to_floats()?;
    let groups = (0..layout.groups).map(|group| {
        let rows = &flat[group * layout.outputs * patch..][..layout.outputs * patch];
        crate::kernels::transposed(rows, patch, layout.outputs)
    });
    let groups = groups.collect();
    let out = builder.fresh(Type::Float, layout.shape.clone())?;
    let scratch = builder.reserve(patch + layout.outputs)?;
    debug_assert_eq!(scratch, out.at + out.len());
    builder.push(Conv {
        groups,
        bias,
        patches: patches(&layout, x.at),
        patch,
        positions: layout.positions(),
        outputs: layout.outputs,
        shift: layout.inputs * layout.plane,
        at: out.at,
    });
    Ok(vec![out.into()])
}

/// The places of each patch of the first group; `u32::MAX` for padding.
fn patches(layout: &Layout, from: usize) -> Vec<u32> {
    let mut places = Vec::with_capacity(layout.windows.taps.len() * layout.inputs);
    for taps in layout.windows.taps.chunks_exact(layout.windows.each) {
        for channel in 0..layout.inputs {
            let base = from + channel * layout.plane;
            places.extend(
                taps.iter()
                    .map(|tap| tap.map_or(u32::MAX, |tap| (base + tap) as u32)),
            );
        }
    }
    places
}

/// Behind its output lie one patch and the outputs of one position.
struct Conv {
    /// Of each group `[patch][outputs]`.
    groups: Vec<Vec<f32>>,
    bias: Vec<f32>,
    patches: Vec<u32>,
    patch: usize,
    positions: usize,
    outputs: usize,
    /// From a group's input to the next one's.
    shift: usize,
    at: usize,
}

impl Step for Conv {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let all = self.bias.len() * self.positions;
        let (out, scratch) = out.split_at_mut(all);
        let (patch, sums) = scratch.split_at_mut(self.patch);
        let sums = &mut sums[..self.outputs];
        for (group, weights) in self.groups.iter().enumerate() {
            let bias = &self.bias[group * self.outputs..][..self.outputs];
            let out = &mut out[group * self.outputs * self.positions..];
            for (position, places) in self.patches.chunks_exact(self.patch).enumerate() {
                for (value, place) in patch.iter_mut().zip(places) {
                    let place = *place as usize + group * self.shift;
                    *value = below.get(place).copied().unwrap_or(0.0);
                }
                numerics::dense(weights, bias, patch, sums);
                for (o, sum) in sums.iter().enumerate() {
                    out[o * self.positions + position] = *sum;
                }
            }
        }
    }
}

/// Lists of a pooling: for each output the places of its window.
struct Pool {
    fold: Fold,
    windows: Windows,
    planes: usize,
    plane: usize,
    shape: Vec<usize>,
    padding_counts: bool,
    /// Numbers of all windows.
    work: usize,
}

impl Pool {
    fn of(node: &Node, x: &[usize]) -> Result<Self, String> {
        let (batch, channels, spatial) = split(x)?;
        let (fold, global) = match node.op.as_str() {
            "AveragePool" => (Fold::Mean, false),
            "GlobalAveragePool" => (Fold::Mean, true),
            "GlobalMaxPool" => (Fold::Max, true),
            _ => (Fold::Max, false),
        };
        if node.wants(1) || node.int("storage_order", 0)? != 0 {
            return Err("indices of a maximum are not supported".to_owned());
        }
        let kernel = if global {
            spatial.to_vec()
        } else {
            node.sizes("kernel_shape")?
        };
        let windows = Windows::of(node, spatial, &kernel)?;
        let mut shape = vec![batch, channels];
        shape.extend(&windows.out);
        checked_len(&shape)?;
        Ok(Self {
            work: check_work(&[batch, channels, windows.taps.len()])?,
            fold,
            windows,
            planes: batch * channels,
            plane: spatial.iter().product(),
            shape,
            padding_counts: node.flag("count_include_pad", false)?,
        })
    }

    /// What the mean of each window divides by.
    fn counts(&self) -> Vec<f32> {
        let each = self.windows.each;
        let windows = self
            .windows
            .taps
            .chunks_exact(each)
            .zip(self.windows.counted.chunks_exact(each));
        let count = |(taps, counted): (&[Option<usize>], &[bool])| {
            let taps = taps.iter().filter(|tap| tap.is_some()).count();
            let padded = counted.iter().filter(|counted| **counted).count();
            (if self.padding_counts { padded } else { taps }) as f32
        };
        windows.map(count).collect()
    }
}

fn eval_pool(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let pool = Pool::of(node, &x.shape)?;
    let (values, counts) = (x.values()?, pool.counts());
    let mut pooled = Vec::new();
    for plane in values.chunks_exact(pool.plane.max(1)).take(pool.planes) {
        for (taps, count) in pool
            .windows
            .taps
            .chunks_exact(pool.windows.each)
            .zip(&counts)
        {
            let list = taps.iter().flatten().map(|tap| plane[*tap]);
            pooled.push(match pool.fold {
                Fold::Mean => list.sum::<f64>() / f64::from(*count),
                _ => list.fold(f64::NEG_INFINITY, f64::max),
            });
        }
    }
    Ok(vec![Tensor::numbers(x.ty, pool.shape, pooled)])
}

fn pool_work(node: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    Ok(Pool::of(node, &arg(inputs, 0)?.shape)?.work)
}

fn build_pool(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let pool = Pool::of(node, &x.shape)?;
    let (mut places, mut ends) = (Vec::new(), Vec::new());
    for plane in 0..pool.planes {
        let base = x.at + plane * pool.plane;
        for taps in pool.windows.taps.chunks_exact(pool.windows.each) {
            places.extend(taps.iter().flatten().map(|tap| (base + tap) as u32));
            ends.push(places.len() as u32);
        }
    }
    let counts = pool.counts().repeat(pool.planes);
    let out = builder.fresh(x.ty, pool.shape)?;
    builder.push(Reduce {
        fold: pool.fold,
        ends,
        places,
        counts,
        at: out.at,
    });
    Ok(vec![out.into()])
}

const POOL: &[&str] = &[
    "auto_pad",
    "ceil_mode",
    "count_include_pad",
    "dilations",
    "kernel_shape",
    "pads",
    "storage_order",
    "strides",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "AveragePool",
        7,
        POOL,
        "1 to 3 dimensions",
        eval_pool,
        build_pool,
    )
    .costing(pool_work),
    op("GlobalAveragePool", 1, &[], eval_pool, build_pool).costing(pool_work),
    op("GlobalMaxPool", 1, &[], eval_pool, build_pool).costing(pool_work),
    noted(
        "MaxPool",
        1,
        POOL,
        "1 to 3 dimensions; no indices",
        eval_pool,
        build_pool,
    )
    .costing(pool_work),
];

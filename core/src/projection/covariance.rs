//! The running covariance of a layer's inputs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result};
use crate::family::State;
use crate::layers::{Layer, LayerKind, Probe};

/// What is summed over batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CovarianceKind {
    /// Outer product of the batch mean with itself (Eq. 5): `C += m^T m`.
    #[default]
    BatchMean,
    /// All samples: `C += H^T H`.
    SecondMoment,
    /// Spread within the batch: `C += (H - m)^T (H - m) / B`.
    Centred,
}

/// Number format that covariances are summed in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits: half the memory and time of large layers.
    F32,
    /// 64 bits.
    #[default]
    F64,
}

impl Precision {
    /// The format as libtorch calls it.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F64 => Kind::Double,
        }
    }
}

/// Numbers that unfolded patches may take at once (32 MiB in f64).
const BLOCK: usize = 4 << 20;

/// Rows that are kept together: many enough for fast products, few enough to cost little memory.
const ROWS_TOGETHER: i64 = 256;

/// Unit of the stored numbers above which they are scaled back.
const LARGEST_UNIT: f64 = 1e12;

/// A running covariance `C = X^T X` of a layer's inputs.
///
/// It is kept as its factor `X` as long as that has few rows, then as the matrix, to which further
/// rows are added many at a time. With `d` the width of the layer it holds at most
/// `7/4 d^2 + 256 d` numbers, and while it adds a convolution's patches no more than a block of
/// 32 MiB of them, whatever the size of the maps.
#[derive(Debug)]
pub struct Covariance {
    kind: CovarianceKind,
    width: i64,
    format: (Kind, Device),
    /// Rows of the factor that are not in `sum` yet, `[ROWS_TOGETHER, width]` each; the last is
    /// filled as far as `row_count` says.
    blocks: Vec<Tensor>,
    row_count: i64,
    /// `[width, width]`, once there were too many rows to keep.
    sum: Option<Tensor>,
    batches: u64,
    /// What is stored is `unit C`: forgetting makes new rows heavier instead of old ones lighter.
    unit: f64,
}

impl Covariance {
    /// Starts at zero.
    pub fn new(width: i64, kind: CovarianceKind, precision: Precision, device: Device) -> Self {
        Self {
            kind,
            width,
            format: (precision.kind(), device),
            blocks: Vec::new(),
            row_count: 0,
            sum: None,
            batches: 0,
            unit: 1.0,
        }
    }

    /// Takes a matrix `[width, width]` that was summed elsewhere over `batches` batches.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is not square, or not of floating-point numbers of 32 or 64 bits.
    pub fn from_matrix(matrix: &Tensor, batches: u64) -> Result<Self> {
        let (size, kind) = (matrix.size(), matrix.kind());
        if size.len() != 2 || size[0] != size[1] || !matches!(kind, Kind::Float | Kind::Double) {
            let found = format!("{size:?} of {kind:?}");
            return Err(Error::shape("a covariance", "[width, width] of f32 or f64", found));
        }
        let mut new =
            Self::new(size[0], CovarianceKind::default(), Precision::F64, matrix.device());
        new.format.0 = kind;
        new.sum = Some(matrix.f_detach_copy()?);
        new.batches = batches;
        Ok(new)
    }

    /// Adds the input of a layer for one batch: `[batch, …, width]`, or `[batch, channels, …]` for
    /// a convolution, which is unfolded into patches as the layer sees them.
    ///
    /// # Errors
    /// [`Error::Shape`] when the width is another one.
    pub fn add(&mut self, layer: &LayerKind, input: &Tensor) -> Result<()> {
        let _guard = no_grad_guard();
        if self.batches == 0 {
            // One that was saved while it was empty does not know where it was.
            self.format.1 = input.device();
        }
        let input = input.f_detach()?.f_to_kind(self.format.0)?;
        let windows = match layer {
            LayerKind::Linear => {
                let width = input.size().last().copied().unwrap_or_default();
                let rows = input.f_reshape([-1, width])?;
                match self.kind {
                    CovarianceKind::BatchMean => Windows::rows(mean_of(&rows)?),
                    _ => Windows::rows(rows),
                }
            }
            // Unfolding is linear, so the mean is taken first, on one map instead of all.
            LayerKind::Conv2d { .. } | LayerKind::Conv3d { .. } => match self.kind {
                CovarianceKind::BatchMean => Windows::of(layer, &mean_of(&input)?)?,
                _ => Windows::of(layer, &input)?,
            },
        };
        if windows.width != self.width {
            return Err(Error::shape("rows of a covariance", self.width, windows.width));
        }
        match self.kind {
            CovarianceKind::BatchMean | CovarianceKind::SecondMoment => {
                windows.in_blocks(&mut |rows| self.push(rows, 1.0))?;
            }
            CovarianceKind::Centred => {
                let mut sum = Tensor::f_zeros([1, self.width], self.format)?;
                windows.in_blocks(&mut |rows| {
                    let _ = sum.f_add_(&rows.f_sum_dim_intlist(0i64, true, None::<Kind>)?)?;
                    Ok(())
                })?;
                let count = windows.count() as f64;
                let mean = sum.f_div_scalar(count)?;
                windows.in_blocks(&mut |rows| self.push(&rows.f_sub(&mean)?, 1.0 / count))?;
            }
        }
        self.batches += 1;
        Ok(())
    }

    /// Adds `weight rows^T rows`.
    fn push(&mut self, rows: &Tensor, weight: f64) -> Result<()> {
        let weight = (weight * self.unit).sqrt();
        let plain = (weight - 1.0).abs() <= 0.0;
        let rows = if plain { rows.shallow_clone() } else { rows.f_mul_scalar(weight)? };
        let count = rows.size()[0];
        // The factor is worth keeping as long as it is smaller than the matrix.
        let most = self.width * 3 / 4;
        if count >= ROWS_TOGETHER && (self.sum.is_some() || self.row_count + count > most) {
            self.fold()?;
            return add_product(self.matrix_so_far()?, &rows);
        }
        self.keep(&rows)?;
        if self.row_count > most { self.fold() } else { Ok(()) }
    }

    /// Copies rows into the blocks: what is kept must not keep a batch alive, nor follow its changes.
    fn keep(&mut self, rows: &Tensor) -> Result<()> {
        let (mut taken, count) = (0, rows.size()[0]);
        while taken < count {
            let filled = self.row_count % ROWS_TOGETHER;
            if filled == 0 {
                self.blocks.push(Tensor::f_zeros([ROWS_TOGETHER, self.width], self.format)?);
            }
            let size = (ROWS_TOGETHER - filled).min(count - taken);
            if let Some(block) = self.blocks.last() {
                block.f_narrow(0, filled, size)?.f_copy_(&rows.f_narrow(0, taken, size)?)?;
            }
            taken += size;
            self.row_count += size;
        }
        Ok(())
    }

    fn matrix_so_far(&mut self) -> Result<&mut Tensor> {
        Ok(match &mut self.sum {
            Some(sum) => sum,
            none => none.insert(Tensor::f_zeros([self.width, self.width], self.format)?),
        })
    }

    /// Blocks of rows, the last as far as it is filled.
    fn filled(&self) -> Result<Vec<Tensor>> {
        let last = self.blocks.len().saturating_sub(1) as i64 * ROWS_TOGETHER;
        let filled = |(index, block): (usize, &Tensor)| {
            let full = index + 1 < self.blocks.len();
            let rows = if full { ROWS_TOGETHER } else { self.row_count - last };
            Ok(block.f_narrow(0, 0, rows)?)
        };
        self.blocks.iter().enumerate().map(filled).collect()
    }

    /// Brings all rows into the matrix.
    fn fold(&mut self) -> Result<()> {
        for rows in self.filled()? {
            add_product(self.matrix_so_far()?, &rows)?;
        }
        self.blocks.clear();
        self.row_count = 0;
        Ok(())
    }

    /// Multiplies what was summed so far by `factor`, in `(0, 1]`: a running covariance forgets.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn decay(&mut self, factor: f64) -> Result<()> {
        let _guard = no_grad_guard();
        self.unit /= factor;
        if self.unit > LARGEST_UNIT {
            self.fold()?;
            if let Some(sum) = &mut self.sum {
                let _ = sum.f_div_scalar_(self.unit)?;
            }
            self.unit = 1.0;
        }
        Ok(())
    }

    /// Divides the sum by the number of batches.
    pub fn normalise(&mut self) {
        self.unit *= self.batches.max(1) as f64;
    }

    /// The sum so far, `[width, width]`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn matrix(&self) -> Result<Tensor> {
        let _guard = no_grad_guard();
        let mut sum = match &self.sum {
            Some(sum) => sum.f_detach_copy()?,
            None => Tensor::f_zeros([self.width, self.width], self.format)?,
        };
        for rows in self.filled()? {
            add_product(&mut sum, &rows)?;
        }
        if (self.unit - 1.0).abs() > 0.0 {
            let _ = sum.f_div_scalar_(self.unit)?;
        }
        Ok(sum)
    }

    /// The factor `X`, `[rows, width]` with `C = X^T X`, while it is kept.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn factor(&self) -> Result<Option<Tensor>> {
        let _guard = no_grad_guard();
        if self.sum.is_some() {
            return Ok(None);
        }
        Ok(Some(match self.kept_rows()? {
            Some(mut rows) => rows.f_div_scalar_(self.unit.sqrt())?,
            None => Tensor::f_zeros([0, self.width], self.format)?,
        }))
    }

    fn kept_rows(&self) -> Result<Option<Tensor>> {
        let rows = self.filled()?;
        Ok(if rows.is_empty() { None } else { Some(Tensor::f_cat(&rows, 0)?) })
    }

    /// Rows of the factor, while it is kept.
    pub fn factor_rows(&self) -> Option<i64> {
        self.sum.is_none().then_some(self.row_count)
    }

    /// Width of the layer.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Batches added.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Number format and device.
    pub fn format(&self) -> (Kind, Device) {
        self.format
    }

    /// Copies out what is summed, under names that start with `prefix`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn save(&self, prefix: &str, state: &mut State) -> Result<()> {
        if let Some(sum) = &self.sum {
            state.put(format!("{prefix}/matrix"), sum)?;
        }
        if let Some(rows) = self.kept_rows()? {
            state.put(format!("{prefix}/rows"), &rows)?;
        }
        let numbers = serde_json::json!({ "batches": self.batches, "unit": self.unit });
        state.values.insert(prefix.to_owned(), numbers);
        Ok(())
    }

    /// Takes what [`Covariance::save`] wrote; leaves a covariance alone that was not saved.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tensors are of another width.
    pub fn load(&mut self, prefix: &str, state: &mut State) -> Result<()> {
        let Some(numbers) = state.values.remove(prefix) else { return Ok(()) };
        let mut take = |name: &str| -> Result<Option<Tensor>> {
            let Some(tensor) = state.tensors.remove(&format!("{prefix}/{name}")) else {
                return Ok(None);
            };
            if tensor.size().get(1) != Some(&self.width) {
                let expected = format!("[…, {}]", self.width);
                return Err(Error::shape("a saved covariance", expected, tensor.size()));
            }
            let (kind, device) = self.format;
            Ok(Some(tensor.f_to_device(device)?.f_to_kind(kind)?))
        };
        self.sum = take("matrix")?;
        let rows = take("rows")?;
        (self.blocks, self.row_count, self.unit) = (Vec::new(), 0, 1.0);
        if let Some(rows) = rows {
            // No more than were kept: they fill the same blocks again.
            for start in (0..rows.size()[0]).step_by(ROWS_TOGETHER as usize) {
                let size = ROWS_TOGETHER.min(rows.size()[0] - start);
                self.keep(&rows.f_narrow(0, start, size)?)?;
            }
        }
        self.batches = numbers["batches"].as_u64().unwrap_or_default();
        self.unit = numbers["unit"].as_f64().unwrap_or(1.0);
        Ok(())
    }
}

/// Sums the covariances of the layers that it has, by their names, and ignores all others.
#[derive(Debug, Default)]
pub struct Covariances(pub BTreeMap<String, Covariance>);

impl Probe for Covariances {
    fn see(&mut self, layer: &Layer, input: &Tensor) -> Result<()> {
        match self.0.get_mut(&layer.name) {
            Some(covariance) => covariance.add(&layer.kind, input),
            None => Ok(()),
        }
    }
}

/// `sum += rows^T rows`, in place: no second matrix is made.
fn add_product(sum: &mut Tensor, rows: &Tensor) -> Result<()> {
    let _ = sum.f_addmm_(&rows.f_tr()?, rows)?;
    Ok(())
}

/// Mean over the first axis, which stays as one of size 1.
fn mean_of(samples: &Tensor) -> Result<Tensor> {
    Ok(samples.f_mean_dim(0i64, true, None::<Kind>)?)
}

/// What a layer multiplies its weight with, as a view: `[batch, places …, channels, kernel …]`.
struct Windows {
    view: Tensor,
    /// Leading axes, over which rows are counted.
    leading: usize,
    /// Numbers in a row, in the order of the layer's weight.
    width: i64,
}

impl Windows {
    fn rows(rows: Tensor) -> Self {
        let width = rows.size()[1];
        Self { view: rows, leading: 1, width }
    }

    fn of(layer: &LayerKind, input: &Tensor) -> Result<Self> {
        let (padded, kernel, stride) = match layer {
            LayerKind::Conv2d { kernel, stride, padding: [height, width] } => {
                let padding = [*width, *width, *height, *height];
                let padded = input.f_constant_pad_nd(padding)?;
                (padded, &kernel[..], &stride[..])
            }
            LayerKind::Conv3d { kernel, stride } => {
                (input.shallow_clone(), &kernel[..], &stride[..])
            }
            LayerKind::Linear => {
                return Err(Error::Bug("a linear layer has no windows".to_owned()));
            }
        };
        let axes = kernel.len();
        if padded.dim() != axes + 2 {
            let expected = format!("{} axes", axes + 2);
            return Err(Error::shape("input of a convolution", expected, padded.size()));
        }
        let mut view = padded;
        for axis in 0..axes {
            view = view.f_unfold(2 + axis as i64, kernel[axis], stride[axis])?;
        }
        // [batch, channels, places, kernel] -> [batch, places, channels, kernel]
        let count = axes as i64;
        let order: Vec<i64> = [0]
            .into_iter()
            .chain(2..2 + count)
            .chain([1])
            .chain(2 + count..2 + 2 * count)
            .collect();
        let width = view.size()[1] * kernel.iter().product::<i64>();
        Ok(Self { view: view.f_permute(order)?, leading: 1 + axes, width })
    }

    fn count(&self) -> i64 {
        self.view.size()[..self.leading].iter().product()
    }

    /// Hands out all rows, `[rows, width]`, a bounded block at a time.
    fn in_blocks(&self, see: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
        self.halved(&self.view, see)
    }

    fn halved(&self, view: &Tensor, see: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
        let size = view.size();
        let splits = size[..self.leading].iter().position(|places| *places > 1);
        match splits {
            Some(axis) if view.numel() > BLOCK => {
                let half = size[axis] / 2;
                let axis_index = axis as i64;
                self.halved(&view.f_narrow(axis_index, 0, half)?, see)?;
                self.halved(&view.f_narrow(axis_index, half, size[axis] - half)?, see)
            }
            _ => see(&view.f_reshape([-1, self.width])?),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const CPU: Device = Device::Cpu;

    pub(in crate::projection) fn matrix(values: &[f64], width: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, width])
    }

    pub(in crate::projection) fn close(found: &Tensor, expected: &Tensor, tolerance: f64) {
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference <= tolerance, "differs by {difference}: {found:?} {expected:?}");
    }

    /// The paper's three batches of two features.
    fn batches() -> [Tensor; 3] {
        [&[1., 2., 3., 0.], &[0., 1., 2., 3.], &[1., 1., 1., -1.]].map(|rows| matrix(rows, 2))
    }

    fn empty(width: i64, kind: CovarianceKind) -> Covariance {
        Covariance::new(width, kind, Precision::F64, CPU)
    }

    pub(in crate::projection) fn covariance(kind: CovarianceKind) -> Tensor {
        let mut sum = empty(2, kind);
        for batch in batches() {
            sum.add(&LayerKind::Linear, &batch).unwrap();
        }
        sum.matrix().unwrap()
    }

    #[test]
    fn v1_covariances_of_three_batches() {
        close(&covariance(CovarianceKind::BatchMean), &matrix(&[6., 4., 4., 5.], 2), 1e-12);
        close(&covariance(CovarianceKind::SecondMoment), &matrix(&[16., 8., 8., 16.], 2), 1e-12);
        close(&covariance(CovarianceKind::Centred), &matrix(&[2., 0., 0., 3.], 2), 1e-12);
    }

    #[test]
    fn v9_a_convolution_is_unfolded_into_its_patches() {
        let map = Tensor::arange(9, (Kind::Double, CPU)).view([1, 1, 3, 3]) + 1.0;
        let layer = LayerKind::Conv2d { kernel: [2, 2], stride: [1, 1], padding: [0, 0] };
        let mut sum = empty(4, CovarianceKind::BatchMean);
        sum.add(&layer, &map).unwrap();
        let expected = [
            46., 58., 82., 94., 58., 74., 106., 122., 82., 106., 154., 178., 94., 122., 178., 206.,
        ];
        close(&sum.matrix().unwrap(), &matrix(&expected, 4), 1e-12);
    }

    /// Rows as libtorch's own unfolding gives them.
    fn im2col(input: &Tensor, layer: &LayerKind) -> Tensor {
        let LayerKind::Conv2d { kernel, stride, padding } = layer else { panic!("not 2-D") };
        let columns = input.im2col(kernel, [1, 1], padding, stride);
        let width = columns.size()[1];
        columns.transpose(1, 2).reshape([-1, width])
    }

    #[test]
    fn every_kind_of_a_padded_and_strided_convolution_is_that_of_its_patches() {
        let input = Tensor::randn([3, 2, 7, 6], (Kind::Double, CPU));
        let layer = LayerKind::Conv2d { kernel: [3, 2], stride: [2, 1], padding: [1, 2] };
        let rows = im2col(&input, &layer);
        let mean = im2col(&input.mean_dim(0i64, true, Kind::Double), &layer);
        let centred = &rows - rows.mean_dim(0i64, true, Kind::Double);
        let count = rows.size()[0] as f64;
        for (kind, expected) in [
            (CovarianceKind::BatchMean, mean.tr().matmul(&mean)),
            (CovarianceKind::SecondMoment, rows.tr().matmul(&rows)),
            (CovarianceKind::Centred, centred.tr().matmul(&centred) / count),
        ] {
            let mut sum = empty(12, kind);
            sum.add(&layer, &input).unwrap();
            close(&sum.matrix().unwrap(), &expected, 1e-10);
        }
    }

    #[test]
    fn a_clip_is_unfolded_as_its_convolution_multiplies_it() {
        let clip = Tensor::randn([2, 3, 5, 4, 6], (Kind::Double, CPU));
        let weight = Tensor::randn([7, 3, 3, 2, 2], (Kind::Double, CPU));
        let layer = LayerKind::Conv3d { kernel: [3, 2, 2], stride: [1, 2, 1] };
        let mut blocks = Vec::new();
        let windows = Windows::of(&layer, &clip).unwrap();
        windows
            .in_blocks(&mut |rows| {
                blocks.push(rows.shallow_clone());
                Ok(())
            })
            .unwrap();
        let rows = Tensor::cat(&blocks, 0);
        let product = rows.matmul(&weight.view([7, -1]).tr());
        let none = None::<&Tensor>;
        let maps = clip.conv3d(&weight, none, [1, 2, 1], [0i64; 3], [1i64; 3], 1);
        close(&product.view([2, 3, 2, 5, 7]), &maps.permute([0, 2, 3, 4, 1]), 1e-12);
        // The mean over samples is taken first: unfolding is linear.
        let mut sum = empty(36, CovarianceKind::BatchMean);
        sum.add(&layer, &clip).unwrap();
        let mean = rows.view([2, 30, 36]).mean_dim(0i64, false, Kind::Double);
        close(&sum.matrix().unwrap(), &mean.tr().matmul(&mean), 1e-12);
    }

    #[test]
    fn unfolding_hands_out_blocks_of_bounded_size_in_order() {
        let input = Tensor::randn([2, 64, 64, 64], (Kind::Float, CPU));
        let layer = LayerKind::Conv2d { kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
        let windows = Windows::of(&layer, &input).unwrap();
        let (mut largest, mut blocks) = (0, Vec::new());
        windows
            .in_blocks(&mut |rows| {
                largest = largest.max(rows.numel());
                blocks.push(rows.shallow_clone());
                Ok(())
            })
            .unwrap();
        assert!(largest <= BLOCK && blocks.len() > 1, "{largest} in {}", blocks.len());
        close(&Tensor::cat(&blocks, 0), &im2col(&input, &layer), 0.0);
    }

    #[test]
    fn few_rows_are_kept_as_a_factor_and_many_as_the_matrix_within_the_bound() {
        let layer = LayerKind::Linear;
        let mut sum = empty(40, CovarianceKind::SecondMoment);
        let mut expected = Tensor::zeros([40, 40], (Kind::Double, CPU));
        for batch in 0..20 {
            let rows = Tensor::randn([7, 40], (Kind::Double, CPU));
            sum.add(&layer, &rows).unwrap();
            expected += rows.tr().matmul(&rows);
            let kept = sum.factor().unwrap();
            assert_eq!(kept.is_some(), batch < 4, "batch {batch}");
            if let Some(factor) = kept {
                close(&factor.tr().matmul(&factor), &expected, 1e-11);
                assert_eq!(sum.factor_rows(), Some(factor.size()[0]));
            }
            close(&sum.matrix().unwrap(), &expected, 1e-11);
            let numbers = sum.sum.as_ref().map_or(0, Tensor::numel)
                + sum.blocks.iter().map(Tensor::numel).sum::<usize>();
            assert!(numbers <= 7 * 40 * 40 / 4 + 256 * 40, "{numbers}");
        }
    }

    #[test]
    fn many_rows_at_once_stay_within_the_bound_too() {
        let (width, rows) = (600, 400);
        let mut sum = empty(width, CovarianceKind::SecondMoment);
        let mut expected = Tensor::zeros([width, width], (Kind::Double, CPU));
        let mut most = 0;
        for _ in 0..6 {
            let batch = Tensor::randn([rows, width], (Kind::Double, CPU));
            sum.add(&LayerKind::Linear, &batch).unwrap();
            expected += batch.tr().matmul(&batch);
            let numbers = sum.sum.as_ref().map_or(0, Tensor::numel)
                + sum.blocks.iter().map(Tensor::numel).sum::<usize>();
            most = most.max(numbers as i64);
        }
        assert!(most <= 7 * width * width / 4 + ROWS_TOGETHER * width, "{most}");
        close(&sum.matrix().unwrap(), &expected, 1e-9);
    }

    #[test]
    fn the_patches_of_a_late_convolution_stay_within_the_bound_at_their_full_width() {
        let width = 4608;
        let layer = LayerKind::Conv2d { kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
        let maps = Tensor::randn([2, 512, 16, 16], (Kind::Float, CPU));
        let kind = CovarianceKind::SecondMoment;
        let mut sum = Covariance::new(width, kind, Precision::F32, CPU);
        let mut most = 0;
        // 512 rows at a time: seven of them are more than the factor may have.
        for _ in 0..8 {
            sum.add(&layer, &maps).unwrap();
            let numbers = sum.sum.as_ref().map_or(0, Tensor::numel)
                + sum.blocks.iter().map(Tensor::numel).sum::<usize>();
            most = most.max(numbers as i64);
        }
        assert!(sum.sum.is_some() && sum.batches() == 8);
        assert!(most <= 7 * width * width / 4 + ROWS_TOGETHER * width, "{most}");
    }

    #[test]
    fn what_is_kept_does_not_follow_changes_of_the_batch() {
        let mut batch = Tensor::ones([2, 4], (Kind::Double, CPU));
        let mut sum = empty(4, CovarianceKind::SecondMoment);
        sum.add(&LayerKind::Linear, &batch).unwrap();
        let _ = batch.fill_(7.0);
        close(&sum.matrix().unwrap(), &Tensor::full([4, 4], 2.0, (Kind::Double, CPU)), 0.0);
    }

    #[test]
    fn a_decaying_sum_forgets_by_its_factor() {
        for (width, steps) in [(3, 2), (3, 100), (60, 9)] {
            let mut sum = empty(width, CovarianceKind::SecondMoment);
            let mut expected = Tensor::zeros([width, width], (Kind::Double, CPU));
            for _ in 0..steps {
                let rows = Tensor::randn([2, width], (Kind::Double, CPU));
                sum.decay(0.6).unwrap();
                sum.add(&LayerKind::Linear, &rows).unwrap();
                expected = expected * 0.6 + rows.tr().matmul(&rows);
            }
            close(&sum.matrix().unwrap(), &expected, 1e-10);
        }
    }

    #[test]
    fn a_saved_sum_goes_on_with_the_same_bits() {
        for batches in [2, 9] {
            let add = |sum: &mut Covariance, batch: i64| {
                let rows = Tensor::arange(3 * 8, (Kind::Double, CPU)).view([3, 8]);
                sum.decay(0.9).unwrap();
                sum.add(&LayerKind::Linear, &(rows * 0.01 * (batch + 1)).sin()).unwrap();
            };
            let mut sum = empty(8, CovarianceKind::SecondMoment);
            (0..batches).for_each(|batch| add(&mut sum, batch));
            let mut state = State::default();
            sum.save("layer", &mut state).unwrap();
            let mut loaded = empty(8, CovarianceKind::SecondMoment);
            loaded.load("layer", &mut state).unwrap();
            assert!(state.tensors.is_empty() && state.values.is_empty());
            for batch in batches..batches + 3 {
                add(&mut sum, batch);
                add(&mut loaded, batch);
            }
            assert_eq!(sum.matrix().unwrap(), loaded.matrix().unwrap());
            assert_eq!(sum.batches(), loaded.batches());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn a_covariance_does_not_depend_on_the_order_of_batches(seed in 0i64..10_000) {
            tch::manual_seed(seed);
            let batches: Vec<_> =
                (0..5).map(|_| Tensor::randn([4, 6], (Kind::Double, CPU))).collect();
            let sum = |order: &mut dyn Iterator<Item = &Tensor>| {
                let mut c = empty(6, CovarianceKind::BatchMean);
                order.for_each(|batch| c.add(&LayerKind::Linear, batch).unwrap());
                c.matrix().unwrap()
            };
            close(&sum(&mut batches.iter()), &sum(&mut batches.iter().rev()), 1e-12);
        }
    }
}

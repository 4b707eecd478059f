//! `Experts` and `RoutedActivations`: mixtures of experts.

use crate::arrays::{Input, Named, Output, Tokens};
use crate::errors::Error;
use crate::forward::{layers, only};
use crate::indices::indices;
use crate::options::Quantization;
use crate::outputs::{Outputs, Pass};
use crate::pool::multiply;
use crate::product::{Made, options};
use crate::quant::{ForFloat, for_float};
use crate::shared::Shared;
use pyo3::prelude::*;
use tritgemm::{
    Activation, Experts as Core, GemmError, GroupSize, Grouped, MatMut, MatRef, Options,
    Output as Target, RoutedActivations as Routed, Routes, Workspace,
};

/// The experts of a mixture, in the order of the router's numbers: Linear layers
/// with one M, one K and one group size.
///
/// Each expert computes of its tokens the bits that its layer computes of them
/// alone; the products of all experts share the threads.
#[pyclass(frozen, module = "tritgemm")]
pub struct Experts {
    core: Core,
}

/// Activations made ready for the experts that their tokens were sent to.
///
/// Made by Experts.prepare_int8 or Experts.prepare_f32. The arrays can be changed
/// afterwards. What is prepared again in place (`into`) may not be in use by a call
/// that is running: that is an OverlapError.
#[pyclass(frozen, module = "tritgemm")]
#[derive(Default)]
pub struct RoutedActivations(Shared<Routed>);

#[pymethods]
impl RoutedActivations {
    /// Rows of a product: the tokens of all experts, those of the first one first.
    #[getter]
    fn rows(&self) -> Result<usize, Error> {
        Ok(self.0.read("routed")?.rows())
    }

    /// K.
    #[getter]
    fn cols(&self) -> Result<usize, Error> {
        Ok(self.0.read("routed")?.cols())
    }

    /// How many tokens each expert got, int64 [E].
    #[getter]
    fn counts<'py>(&self, py: Python<'py>) -> Made<'py> {
        let routed = self.0.read("routed")?;
        let mut array = Output::<i64>::fresh(py, &[routed.counts().len()])?;
        for (to, &count) in array.slice_mut()?.iter_mut().zip(routed.counts()) {
            // Counts of elements in memory fit.
            *to = count as i64;
        }
        Ok(array.into_object())
    }

    fn __repr__(&self) -> Result<String, Error> {
        let routed = self.0.read("routed")?;
        let (rows, cols, counts) = (routed.rows(), routed.cols(), routed.counts());
        Ok(format!(
            "tritgemm.RoutedActivations(rows={rows}, cols={cols}, counts={counts:?})"
        ))
    }
}

/// What is prepared: which tokens, how many of them for each expert, into what.
struct Route<'a, 'py> {
    experts: &'a Core,
    x: &'a Bound<'py, PyAny>,
    tokens: Vec<usize>,
    counts: Vec<usize>,
    into: Option<&'a Bound<'py, RoutedActivations>>,
}

impl<'py> Route<'_, 'py> {
    /// As `work` prepares it without the GIL.
    fn prepare<T: Named + Sync>(
        self,
        py: Python<'py>,
        options: Options,
        work: impl FnOnce(
            &Core,
            MatRef<'_, T>,
            Routes<'_>,
            &mut Routed,
            &mut Workspace,
        ) -> Result<(), GemmError>
        + Send,
    ) -> Result<Bound<'py, RoutedActivations>, Error> {
        let Self {
            experts,
            tokens,
            counts,
            ..
        } = &self;
        let x = Input::<T>::matrix("x", "[N, K]", self.x)?;
        let view = x.view()?;
        let routed = match self.into {
            Some(into) => into.clone(),
            None => Bound::new(py, RoutedActivations::default())?,
        };
        let routes = Routes { tokens, counts };
        let size = tokens.len().max(x.rows()).saturating_mul(x.cols());
        let mut held = routed.get().0.write("into")?;
        let into = &mut *held;
        multiply(py, size, options, |ws| {
            work(experts, view, routes, into, ws)
        })??;
        drop(held);
        Ok(routed)
    }
}

/// What is prepared, quantised.
struct Quantize<'a, 'py>(Route<'a, 'py>, Quantization);

impl<'py> ForFloat<'py> for Quantize<'_, 'py> {
    type Output = Bound<'py, RoutedActivations>;

    fn call<T: Activation + Named>(self, py: Python<'py>) -> Result<Self::Output, Error> {
        let Quantization {
            group, non_finite, ..
        } = self.1;
        let route = self.0;
        let options = options(false).non_finite(non_finite);
        route.prepare::<T>(py, options, |experts, x, routes, into, ws| match group {
            None => experts.prepare_int8_into(x, routes, into, ws),
            Some(group) => experts.prepare_int8_into(Grouped(x, group), routes, into, ws),
        })
    }
}

/// The forward pass of all experts.
struct Forward<'a>(&'a Core, &'a Routed);

impl Pass for Forward<'_> {
    fn run<O: Target>(self, ys: Vec<O>, ws: &mut Workspace) -> Result<(), GemmError> {
        ys.into_iter()
            .try_for_each(|y| self.0.forward(self.1, y, ws))
    }
}

impl Experts {
    fn route<'a, 'py>(
        &'a self,
        x: &'a Bound<'py, PyAny>,
        [tokens, counts]: [&Bound<'py, PyAny>; 2],
        into: Option<&'a Bound<'py, RoutedActivations>>,
    ) -> Result<Route<'a, 'py>, Error> {
        Ok(Route {
            experts: &self.core,
            x,
            tokens: indices("tokens", "[rows]", tokens)?,
            counts: indices("counts", "[E]", counts)?,
            into,
        })
    }

    /// Weights times tokens.
    fn size(&self, rows: usize) -> usize {
        let weights = self
            .core
            .out_features()
            .saturating_mul(self.core.in_features());
        weights.saturating_mul(rows)
    }

    /// Runs `work` without the GIL on the caller's array of any number of rows.
    fn combine<'py>(
        &self,
        routed: &Bound<'py, RoutedActivations>,
        mut y: Output<'py, f32>,
        work: impl FnOnce(&Routed, MatMut<'_, f32>, &mut Workspace) -> Result<(), GemmError> + Send,
    ) -> Made<'py> {
        let held = routed.get().0.read("routed")?;
        let (x, view) = (&*held, y.view()?);
        let size = self.size(x.rows());
        multiply(routed.py(), size, options(false), |ws| work(x, view, ws))??;
        Ok(y.into_object())
    }
}

#[pymethods]
impl Experts {
    #[new]
    fn new(layers: &Bound<'_, PyAny>) -> Result<Self, Error> {
        let layers = self::layers(layers)?;
        let layers = layers.iter().map(|layer| layer.get().core.clone());
        let core = Core::new(layers.collect())?;
        Ok(Self { core })
    }

    /// Quantises each token of x (float32, float16 or bfloat16 [N, K]) once and gathers
    /// for each expert those that it gets.
    ///
    /// `tokens` [rows] and `counts` [E] are of any integer type: the first counts[0] of
    /// the tokens' numbers go to expert 0, those after them to expert 1, and so on. A
    /// token may go to any number of experts. `into` is prepared again, in its memory,
    /// and returned; what it held is gone. It has no rows after a QuantizationError.
    /// `x_group` and `non_finite` as in Linear.forward_int8.
    #[pyo3(signature = (x, tokens, counts, *, into = None, x_group = None, non_finite = "error"))]
    #[allow(clippy::too_many_arguments)] // Python's keywords.
    fn prepare_int8<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        tokens: &Bound<'py, PyAny>,
        counts: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, RoutedActivations>>,
        x_group: Option<usize>,
        non_finite: &str,
    ) -> Result<Bound<'py, RoutedActivations>, Error> {
        let how = Quantization::parse(x_group, non_finite)?;
        let route = self.route(x, [tokens, counts], into)?;
        for_float(py, "x", "[N, K]", x, Quantize(route, how))
    }

    /// As prepare_int8, of float32 x for the f32 pass: nothing is quantised.
    #[pyo3(signature = (x, tokens, counts, *, into = None))]
    fn prepare_f32<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        tokens: &Bound<'py, PyAny>,
        counts: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, RoutedActivations>>,
    ) -> Result<Bound<'py, RoutedActivations>, Error> {
        let route = self.route(x, [tokens, counts], into)?;
        route.prepare::<f32>(py, options(false), Core::prepare_f32_into)
    }

    /// Every expert's pass on its tokens, by int8 or by f32 as they were prepared:
    /// float32 [rows, M], the rows of the first expert's tokens first. `out` and `add`
    /// as in Linear.forward_int8.
    #[pyo3(signature = (routed, *, out = None, add = false))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        routed: &Bound<'py, RoutedActivations>,
        out: Option<&Bound<'py, PyAny>>,
        add: bool,
    ) -> Made<'py> {
        let x = routed.get().0.read("routed")?;
        let tokens = Tokens::prepared([x.rows(), x.cols()], false);
        let cols = [self.core.out_features()];
        let how = (self.size(x.rows()), options(false));
        let outputs = Outputs::one(out, add)?;
        only(outputs.fill(py, (&tokens, &cols), how, Forward(&self.core, &x)))
    }

    /// As forward, row i into row to[i] of `out` (float32 [N, M]), which is returned.
    /// Its other rows stay as they are. `to` [rows] is of any integer type, each number
    /// there once.
    fn scatter<'py>(
        &self,
        routed: &Bound<'py, RoutedActivations>,
        to: &Bound<'py, PyAny>,
        out: &Bound<'py, PyAny>,
    ) -> Made<'py> {
        let to = indices("to", "[rows]", to)?;
        let y = Output::of_cols(out, self.core.out_features())?;
        self.combine(routed, y, |x, y, ws| self.core.scatter(x, &to, y, ws))
    }

    /// As forward, row i times weights[i] (float32 [rows]) added to row to[i] of `out`
    /// (float32 [N, M]), which is returned: one after the other, each product and each
    /// sum rounded to float32. `to` [rows] is of any integer type.
    fn add_weighted<'py>(
        &self,
        routed: &Bound<'py, RoutedActivations>,
        to: &Bound<'py, PyAny>,
        weights: &Bound<'py, PyAny>,
        out: &Bound<'py, PyAny>,
    ) -> Made<'py> {
        let to = indices("to", "[rows]", to)?;
        let weights = Input::<f32>::vector("weights", "[rows]", weights)?;
        let y = Output::of_cols(out, self.core.out_features())?;
        y.check_overlap("weights", &weights)?;
        let values = weights.slice()?;
        self.combine(routed, y, |x, y, ws| {
            self.core.add_weighted(x, &to, values, y, ws)
        })
    }

    /// K.
    #[getter]
    fn in_features(&self) -> usize {
        self.core.in_features()
    }

    /// M.
    #[getter]
    fn out_features(&self) -> usize {
        self.core.out_features()
    }

    /// The group size of the scales, or None.
    #[getter]
    fn group(&self) -> Option<usize> {
        self.core.group().map(GroupSize::len)
    }

    fn __len__(&self) -> usize {
        self.core.layers().len()
    }

    fn __repr__(&self) -> String {
        let (e, k, m) = (self.__len__(), self.in_features(), self.out_features());
        format!("tritgemm.Experts({e} of in_features={k}, out_features={m})")
    }
}

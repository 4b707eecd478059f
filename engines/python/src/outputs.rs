//! What forward passes write to: new arrays, or the caller's of any float type.

use crate::arrays::{Named, Output, Tokens, check_apart, items};
use crate::errors::Error;
use crate::pool::multiply;
use crate::quant::{ForFloat, for_float};
use pyo3::prelude::*;
use tritgemm::{Activation, Added, GemmError, Options, Output as Target, Workspace};

/// A forward pass, into outputs of any kind.
pub trait Pass: Send {
    fn run<O: Target>(self, ys: Vec<O>, ws: &mut Workspace) -> Result<(), GemmError>;
}

/// What a call says about its outputs.
pub struct Outputs<'py> {
    /// The caller's arrays; new ones if not given.
    given: Option<Vec<Bound<'py, PyAny>>>,
    /// Whether they are the items of a sequence.
    many: bool,
    /// Whether they are added to.
    add: bool,
}

impl<'py> Outputs<'py> {
    /// A single one.
    pub fn one(out: Option<&Bound<'py, PyAny>>, add: bool) -> Result<Self, Error> {
        Self::new(out.map(|out| vec![out.clone()]), false, add)
    }

    /// A sequence of them.
    pub fn many(out: Option<&Bound<'py, PyAny>>, add: bool) -> Result<Self, Error> {
        let out = out.map(|out| items("out", "arrays", out));
        Self::new(out.transpose()?, true, add)
    }

    fn new(given: Option<Vec<Bound<'py, PyAny>>>, many: bool, add: bool) -> Result<Self, Error> {
        if add && given.is_none() {
            return Err(Error::other("add: expected `out` to add to, got None"));
        }
        Ok(Self { given, many, add })
    }

    /// What errors call output `i`.
    fn name(&self, i: usize) -> String {
        match self.many {
            true => format!("out[{i}]"),
            false => "out".to_owned(),
        }
    }

    /// Runs `pass` without the GIL on an output for each of `cols`, in columns.
    /// `size` is as in [`run`].
    pub fn fill(
        self,
        py: Python<'py>,
        (x, cols): (&Tokens, &[usize]),
        (size, options): (usize, Options),
        pass: impl Pass,
    ) -> Result<Vec<Bound<'py, PyAny>>, Error> {
        let given = self.given.as_deref().unwrap_or_default();
        let (len, expected) = (given.len(), cols.len());
        if self.given.is_some() && len != expected {
            return Err(Error::shape(format!(
                "out: {len} arrays, expected {expected}, one a layer"
            )));
        }
        let fill = Fill {
            outputs: &self,
            x,
            cols,
            size,
            options,
            pass,
        };
        match given.first() {
            None => fill.call::<f32>(py),
            // All have the type of the first one.
            Some(out) => {
                let shape = match x.vector {
                    true => format!("[{}]", cols[0]),
                    false => format!("[{}, {}]", x.rows, cols[0]),
                };
                for_float(py, &self.name(0), &shape, out, fill)
            }
        }
    }
}

struct Fill<'a, 'py, P> {
    outputs: &'a Outputs<'py>,
    x: &'a Tokens,
    cols: &'a [usize],
    size: usize,
    options: Options,
    pass: P,
}

impl<'py, P: Pass> ForFloat<'py> for Fill<'_, 'py, P> {
    type Output = Vec<Bound<'py, PyAny>>;

    fn call<T: Activation + Named>(self, py: Python<'py>) -> Result<Self::Output, Error> {
        let Self {
            outputs,
            x,
            options,
            pass,
            ..
        } = self;
        let mut ys = Vec::<Output<'py, T>>::new();
        for (i, &cols) in self.cols.iter().enumerate() {
            let name = outputs.name(i);
            let given = outputs.given.as_ref().map(|given| &given[i]);
            let y = Output::beside(py, (&name, given), [x.rows, cols], x.vector, &ys)?;
            check_apart((&name, y.place()), ("x", &x.place))?;
            for (i, other) in ys.iter().enumerate() {
                check_apart((&name, y.place()), (&outputs.name(i), other.place()))?;
            }
            ys.push(y);
        }
        let add = outputs.add;
        if add {
            Output::each_apart(&mut ys, |own, row| own.clone_from_slice(row))?;
        }
        let views = ys.iter_mut().map(Output::view);
        let views = views.collect::<Result<Vec<_>, _>>()?;
        multiply(py, self.size, options, |ws| match add {
            true => pass.run(views.into_iter().map(Added).collect(), ws),
            false => pass.run(views, ws),
        })??;
        Output::each_apart(&mut ys, |own, row| row.clone_from_slice(own))?;
        Ok(ys.into_iter().map(Output::into_object).collect())
    }
}

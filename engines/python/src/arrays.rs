//! numpy arrays as the library's matrix views, without copies.
//!
//! A matrix may be C-contiguous, or have rows that are contiguous and lie a
//! larger stride apart, as `a[:, :k]` does. The second needs a slice over what
//! lies between the rows as well: it is taken from the array that owns the
//! memory (`a.base`), which is borrowed as a whole, so that numpy's borrow
//! checks cover it and nothing here is unsafe. Everything else is an error:
//! nothing is ever copied or converted, but for outputs side by side in one
//! array. Slices of those would overlap: all but the first are made in arrays
//! of their own and copied to their places.

use crate::errors::Error;
use numpy::{
    BorrowError, Element, PyArrayDescr, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods,
    PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use tritgemm::{MatMut, MatRef};

/// A numpy element type with the name that errors give it.
pub trait Named: Element {
    /// As `numpy.dtype.name`.
    const NAME: &'static str;

    /// Whether an array has elements of this type.
    fn is_of(array: &Bound<'_, PyUntypedArray>) -> bool;
}

macro_rules! named {
    ($($element:ty = $name:literal),*; $is_of:expr) => {$(
        impl Named for $element {
            const NAME: &'static str = $name;

            fn is_of(array: &Bound<'_, PyUntypedArray>) -> bool {
                $is_of(array, Self::NAME, Self::get_dtype)
            }
        }
    )*};
}

type GetDtype = fn(Python<'_>) -> Bound<'_, PyArrayDescr>;

/// Of numpy's own types.
fn is_built_in(array: &Bound<'_, PyUntypedArray>, _: &str, dtype: GetDtype) -> bool {
    array.dtype().is_equiv_to(&dtype(array.py()))
}

/// Of ml_dtypes', which asking for the type would import.
fn is_called(array: &Bound<'_, PyUntypedArray>, name: &str, _: GetDtype) -> bool {
    array.dtype().is_native_byteorder() != Some(false) && dtype_name(array) == name
}

named!(
    i8 = "int8",
    u8 = "uint8",
    i32 = "int32",
    i64 = "int64",
    f32 = "float32",
    half::f16 = "float16";
    is_built_in
);
named!(half::bf16 = "bfloat16"; is_called);

/// `float32 [2, 3]`, or the type of what is no array.
pub fn describe(object: &Bound<'_, PyAny>) -> String {
    match object.cast::<PyUntypedArray>() {
        Ok(array) => format!("{} {:?}", dtype_name(array), array.shape()),
        Err(_) => object
            .get_type()
            .fully_qualified_name()
            .map_or_else(|_| "another type".to_owned(), |name| name.to_string()),
    }
}

/// The name of an array's element type.
fn dtype_name(array: &Bound<'_, PyUntypedArray>) -> String {
    let dtype = array.dtype();
    match dtype.getattr("name").and_then(|name| name.extract()) {
        Ok(name)
            if dtype
                .getattr("isnative")
                .is_ok_and(|n| n.is_truthy().unwrap_or(true)) =>
        {
            name
        }
        _ => dtype.to_string(),
    }
}

/// Whether `object` is an array of such elements.
pub fn has_dtype<T: Named>(object: &Bound<'_, PyAny>) -> bool {
    object
        .cast::<PyUntypedArray>()
        .is_ok_and(|array| T::is_of(array))
}

/// `object` as an array of `T`, or a `TypeError` naming both types. `shape` is
/// the shape it should have, in words.
fn typed<'a, 'py, T: Named>(
    name: &str,
    shape: &str,
    object: &'a Bound<'py, PyAny>,
) -> Result<&'a Bound<'py, PyArrayDyn<T>>, Error> {
    // First, as it imports nothing.
    has_dtype::<T>(object)
        .then(|| object.cast::<PyArrayDyn<T>>().ok())
        .flatten()
        .ok_or_else(|| {
            let got = describe(object);
            Error::wrong_type(format!("{name}: expected {} {shape}, got {got}", T::NAME))
        })
}

/// Where the elements of a matrix lie in an array's memory.
struct Layout<'py, T: Element> {
    /// The array to borrow: it owns the memory, or is the matrix itself.
    array: Bound<'py, PyArrayDyn<T>>,
    /// Its first element that belongs to the matrix.
    start: usize,
    rows: usize,
    cols: usize,
    /// Elements from a row to the next.
    stride: usize,
    /// Whether the array has one dimension: a single row.
    vector: bool,
}

impl<'py, T: Named> Layout<'py, T> {
    fn new(name: &str, shape: &str, array: &Bound<'py, PyArrayDyn<T>>) -> Result<Self, Error> {
        let (rows, cols, vector) = match *array.shape() {
            [rows, cols] => (rows, cols, false),
            [cols] => (1, cols, true),
            _ => {
                let got = describe(array);
                return Err(Error::shape(format!(
                    "{name}: expected {} {shape}, got {got}",
                    T::NAME
                )));
            }
        };
        // First: numpy.ascontiguousarray, which other strides are sent to, leaves it as it is.
        if !array.is_aligned() {
            return Err(Error::misaligned(name));
        }
        let whole = |array: &Bound<'py, PyArrayDyn<T>>| {
            (array.is_c_contiguous() || array.is_fortran_contiguous()) && array.is_aligned()
        };
        if array.is_c_contiguous() {
            let (array, start, stride) = (array.clone(), 0, cols);
            return Ok(Self {
                array,
                start,
                rows,
                cols,
                stride,
                vector,
            });
        }
        let strided = || {
            let size = isize::try_from(size_of::<T>()).ok()?;
            let [row, col] = *array.strides() else {
                return None;
            };
            if (col != size && cols > 1) || row % size != 0 {
                return None;
            }
            let stride = usize::try_from(row / size).ok().filter(|&s| s >= cols)?;
            let base = array
                .getattr("base")
                .ok()?
                .cast_into::<PyArrayDyn<T>>()
                .ok()?;
            let offset = (array.data().addr()).checked_sub(base.data().addr())?;
            let fits = whole(&base) && offset % size_of::<T>() == 0;
            fits.then_some((base, offset / size_of::<T>(), stride))
        };
        match strided() {
            Some((array, start, stride)) => Ok(Self {
                array,
                start,
                rows,
                cols,
                stride,
                vector,
            }),
            None => Err(Error::shape(format!(
                "{name}: strides {:?} for {}; expected C order, or contiguous rows a stride apart in an \
                 array's memory (numpy.ascontiguousarray copies it)",
                array.strides(),
                describe(array),
            ))),
        }
    }
}

/// Where the rows of a matrix lie, in bytes.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The addresses from the first element to the end of the last.
    range: (usize, usize),
    /// Of a row.
    len: usize,
    /// From a row to the next.
    stride: usize,
}

impl Place {
    fn of<T: Element>(layout: &Layout<'_, T>) -> Self {
        let [start, cols, stride] =
            [layout.start, layout.cols, layout.stride].map(|n| n * size_of::<T>());
        let first = layout.array.data().addr() + start;
        let bytes = match layout.rows.checked_sub(1) {
            Some(last) if cols > 0 => last * stride + cols,
            _ => 0,
        };
        Self {
            range: (first, first + bytes),
            len: cols,
            stride,
        }
    }

    /// Whether they have a byte in common, or might where the strides differ.
    fn overlaps(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.range, other.range);
        if ours.0.max(theirs.0) >= ours.1.min(theirs.1) {
            return false;
        }
        if self.stride != other.stride {
            return true;
        }
        // Columns of one larger matrix, each its own: how far theirs start after ours.
        let columns = match theirs.0.checked_sub(ours.0) {
            Some(ahead) => ahead % self.stride,
            None => (self.stride - (ours.0 - theirs.0) % self.stride) % self.stride,
        };
        columns < self.len || columns + other.len > self.stride
    }
}

pub fn borrow_error(name: &str, error: BorrowError) -> Error {
    match error {
        BorrowError::NotWriteable => Error::other(format!("{name}: the array is not writeable")),
        _ => Error::overlap(format!(
            "{name}: shares memory with another argument or with a call that is running"
        )),
    }
}

/// Checks that two matrices, by name, have no address in common. The borrow checks
/// know arrays that share an owner; this knows addresses, whoever owns them.
pub fn check_apart(
    (name, ours): (&str, &Place),
    (other, theirs): (&str, &Place),
) -> Result<(), Error> {
    if ours.overlaps(theirs) {
        return Err(Error::overlap(format!(
            "{name}: shares memory with {other}"
        )));
    }
    Ok(())
}

/// The items of a sequence, of `what`.
pub fn items<'py>(
    name: &str,
    what: &str,
    object: &Bound<'py, PyAny>,
) -> Result<Vec<Bound<'py, PyAny>>, Error> {
    let items = object.try_iter().map_err(|_| {
        let got = describe(object);
        Error::wrong_type(format!("{name}: expected a sequence of {what}, got {got}"))
    })?;
    Ok(items.collect::<PyResult<_>>()?)
}

/// The activations of a product, as far as its outputs depend on them.
pub struct Tokens {
    /// N.
    pub rows: usize,
    /// K.
    pub cols: usize,
    /// Whether they are a vector: so are the outputs then.
    pub vector: bool,
    /// Where outputs may not lie.
    pub place: Place,
}

impl Tokens {
    /// Prepared ones, whose memory nobody else has.
    pub fn prepared([rows, cols]: [usize; 2], vector: bool) -> Self {
        Self {
            rows,
            cols,
            vector,
            place: Place::default(),
        }
    }
}

/// An input matrix, borrowed until dropped.
pub struct Input<'py, T: Element> {
    borrow: PyReadonlyArrayDyn<'py, T>,
    start: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    vector: bool,
    place: Place,
}

impl<'py, T: Named> Input<'py, T> {
    /// A matrix, or a vector as a matrix of one row.
    pub fn new(name: &str, shape: &str, object: &Bound<'py, PyAny>) -> Result<Self, Error> {
        let layout = Layout::new(name, shape, typed::<T>(name, shape, object)?)?;
        let place = Place::of(&layout);
        let Layout {
            array,
            start,
            rows,
            cols,
            stride,
            vector,
        } = layout;
        let borrow = array
            .try_into_readonly()
            .map_err(|e| borrow_error(name, e))?;
        Ok(Self {
            borrow,
            start,
            rows,
            cols,
            stride,
            vector,
            place,
        })
    }

    /// A matrix, or a `ShapeError` of what was expected if it does not fit.
    fn fitting(
        name: &str,
        (layout, shape): (&str, &str),
        object: &Bound<'py, PyAny>,
        fits: impl FnOnce(&Self) -> bool,
    ) -> Result<Self, Error> {
        let input = Self::new(name, shape, object)?;
        if !fits(&input) {
            let got = describe(object);
            return Err(Error::shape(format!(
                "{name}: expected {layout}{} {shape}, got {got}",
                T::NAME
            )));
        }
        Ok(input)
    }

    /// A matrix of two dimensions.
    pub fn matrix(name: &str, shape: &str, object: &Bound<'py, PyAny>) -> Result<Self, Error> {
        Self::fitting(name, ("", shape), object, |input| !input.vector)
    }

    /// A vector.
    pub fn vector(name: &str, shape: &str, object: &Bound<'py, PyAny>) -> Result<Self, Error> {
        Self::fitting(name, ("", shape), object, |input| input.vector)
    }

    /// A matrix without gaps between its rows.
    pub fn dense(name: &str, shape: &str, object: &Bound<'py, PyAny>) -> Result<Self, Error> {
        Self::fitting(name, ("C-contiguous ", shape), object, |input| {
            !input.vector && (input.stride == input.cols || input.rows <= 1)
        })
    }

    /// Rows, N or M.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, K.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether it came as a vector.
    pub fn is_vector(&self) -> bool {
        self.vector
    }

    /// As the activations of a product.
    pub fn tokens(&self) -> Tokens {
        Tokens {
            rows: self.rows,
            cols: self.cols,
            vector: self.vector,
            place: self.place,
        }
    }

    /// The elements from the first on, row-major with the stride.
    fn elements(&self) -> Result<&[T], Error> {
        let all = self.borrow.as_slice().map_err(PyErr::from)?;
        Ok(all.get(self.start..).unwrap_or_default())
    }

    /// The library's view.
    pub fn view(&self) -> Result<MatRef<'_, T>, Error> {
        Ok(MatRef::with_stride(
            self.elements()?,
            self.rows,
            self.cols,
            self.stride,
        )?)
    }

    /// The elements of a [`dense`](Self::dense) matrix.
    pub fn slice(&self) -> Result<&[T], Error> {
        let len = self.rows * self.cols;
        let elements = self.elements()?;
        elements
            .get(..len)
            .ok_or_else(|| Error::shape(format!("{} elements, expected {len}", elements.len())))
    }
}

/// An output matrix, borrowed until dropped.
pub struct Output<'py, T: Element> {
    object: Bound<'py, PyAny>,
    borrow: PyReadwriteArrayDyn<'py, T>,
    start: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    place: Place,
    home: Option<Home>,
}

/// Where an output belongs that is made in an array of its own.
#[derive(Clone, Copy)]
struct Home {
    /// The output that has borrowed the array.
    with: usize,
    start: usize,
    stride: usize,
}

impl<'py, T: Named> Output<'py, T> {
    /// The caller's array, by the name that errors give it, or a new one:
    /// `[rows, cols]`, without the first dimension for a `vector`.
    pub fn new(
        py: Python<'py>,
        (name, out): (&str, Option<&Bound<'py, PyAny>>),
        [rows, cols]: [usize; 2],
        vector: bool,
    ) -> Result<Self, Error> {
        let dims: &[usize] = if vector { &[cols] } else { &[rows, cols] };
        let Some(object) = out else {
            let fresh = Self::fresh(py, dims)?;
            return Ok(fresh.of_shape(rows, cols));
        };
        let layout = Self::layout(name, &format!("{dims:?}"), object, |shape| shape == dims)?;
        Self::borrowed(name, object.clone(), layout)
    }

    /// The same dense elements in other rows.
    fn of_shape(mut self, rows: usize, cols: usize) -> Self {
        (self.rows, self.cols, self.stride) = (rows, cols, cols);
        let size = size_of::<T>();
        (self.place.len, self.place.stride) = (cols * size, cols * size);
        self
    }

    /// As [`new`](Self::new), perhaps in the array of one of the `others`.
    pub fn beside(
        py: Python<'py>,
        (name, out): (&str, Option<&Bound<'py, PyAny>>),
        [rows, cols]: [usize; 2],
        vector: bool,
        others: &[Self],
    ) -> Result<Self, Error> {
        let Some(object) = out else {
            return Self::new(py, (name, None), [rows, cols], vector);
        };
        let dims: &[usize] = if vector { &[cols] } else { &[rows, cols] };
        let layout = Self::layout(name, &format!("{dims:?}"), object, |shape| shape == dims)?;
        let with = |other: &Self| other.borrow.is(&layout.array);
        let home = others.iter().position(with).map(|with| Home {
            with,
            start: layout.start,
            stride: layout.stride,
        });
        // Without elements it shares nothing, which borrow checks do not see.
        if home.is_none() && rows > 0 && cols > 0 {
            return Self::borrowed(name, object.clone(), layout);
        }
        Ok(Self {
            object: object.clone(),
            place: Place::of(&layout),
            home,
            ..Self::new(py, (name, None), [rows, cols], vector)?
        })
    }

    /// The caller's array of so many columns.
    pub fn of_cols(out: &Bound<'py, PyAny>, cols: usize) -> Result<Self, Error> {
        let shape = format!("[tokens, {cols}]");
        let fits = |shape: &[usize]| matches!(*shape, [_, other] if other == cols);
        Self::borrowed("out", out.clone(), Self::layout("out", &shape, out, fits)?)
    }

    /// The layout of an array that can be written and whose shape fits. `shape` says in
    /// words which one that is.
    fn layout(
        name: &str,
        shape: &str,
        object: &Bound<'py, PyAny>,
        fits: impl FnOnce(&[usize]) -> bool,
    ) -> Result<Layout<'py, T>, Error> {
        let array = typed::<T>(name, shape, object)?;
        if !fits(array.shape()) {
            let got = describe(array);
            return Err(Error::shape(format!(
                "{name}: expected {} {shape}, got {got}",
                T::NAME
            )));
        }
        if !array.getattr("flags")?.getattr("writeable")?.is_truthy()? {
            return Err(borrow_error(name, BorrowError::NotWriteable));
        }
        Layout::new(name, shape, array)
    }

    fn borrowed(
        name: &str,
        object: Bound<'py, PyAny>,
        layout: Layout<'py, T>,
    ) -> Result<Self, Error> {
        let place = Place::of(&layout);
        let Layout {
            array,
            start,
            rows,
            cols,
            stride,
            ..
        } = layout;
        let borrow = array
            .try_into_readwrite()
            .map_err(|e| borrow_error(name, e))?;
        Ok(Self {
            object,
            borrow,
            start,
            rows,
            cols,
            stride,
            place,
            home: None,
        })
    }

    /// The caller's array or a new one, without gaps between its rows.
    pub fn dense(
        py: Python<'py>,
        out: Option<&Bound<'py, PyAny>>,
        shape: [usize; 2],
    ) -> Result<Self, Error> {
        match out {
            Some(out) => Self::given_dense(py, ("out", out), shape),
            None => Self::new(py, ("out", None), shape, false),
        }
    }

    /// The caller's array, by its name, without gaps between its rows.
    pub fn given_dense(
        py: Python<'py>,
        (name, out): (&str, &Bound<'py, PyAny>),
        shape: [usize; 2],
    ) -> Result<Self, Error> {
        let output = Self::new(py, (name, Some(out)), shape, false)?;
        if output.stride != output.cols && output.rows > 1 {
            let got = describe(&output.object);
            return Err(Error::shape(format!(
                "{name}: expected C-contiguous {} {shape:?}, got {got}",
                T::NAME
            )));
        }
        Ok(output)
    }

    /// A new array of any shape, as one row.
    pub fn fresh(py: Python<'py>, dims: &[usize]) -> Result<Self, Error> {
        let array = PyArrayDyn::<T>::zeros(py, dims, false);
        let object = array.clone().into_any();
        let cols = dims.iter().product();
        let layout = Layout {
            array,
            start: 0,
            rows: 1,
            cols,
            stride: cols,
            vector: false,
        };
        Self::borrowed("out", object, layout)
    }

    /// Where it is, or belongs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Checks that no element is the input's as well.
    pub fn check_overlap<U: Named>(&self, name: &str, input: &Input<'py, U>) -> Result<(), Error> {
        check_apart(("out", &self.place), (name, &input.place))
    }

    /// Runs `copy` on each row of outputs that are made in arrays of their own, and on the
    /// row of the caller's array that it belongs to.
    pub fn each_apart(ys: &mut [Self], copy: impl Fn(&mut [T], &mut [T])) -> Result<(), Error> {
        for i in 0..ys.len() {
            let (others, rest) = ys.split_at_mut(i);
            let Some(home) = rest[0].home else {
                continue;
            };
            let cols = rest[0].cols.max(1);
            let own = rest[0].borrow.as_slice_mut().map_err(PyErr::from)?;
            let all = others[home.with].borrow.as_slice_mut();
            let all = all.map_err(PyErr::from)?.get_mut(home.start..);
            let rows = all.unwrap_or_default().chunks_mut(home.stride.max(1));
            for (own, row) in own.chunks_exact_mut(cols).zip(rows) {
                copy(own, &mut row[..cols]);
            }
        }
        Ok(())
    }

    /// The library's view.
    pub fn view(&mut self) -> Result<MatMut<'_, T>, Error> {
        let all = self.borrow.as_slice_mut().map_err(PyErr::from)?;
        let elements = all.get_mut(self.start..).unwrap_or_default();
        Ok(MatMut::with_stride(
            elements,
            self.rows,
            self.cols,
            self.stride,
        )?)
    }

    /// The elements of an array without gaps.
    pub fn slice_mut(&mut self) -> Result<&mut [T], Error> {
        let len = self.rows * self.cols;
        let all = self.borrow.as_slice_mut().map_err(PyErr::from)?;
        let elements = all.get_mut(self.start..).unwrap_or_default();
        let got = elements.len();
        elements
            .get_mut(..len)
            .ok_or_else(|| Error::shape(format!("out: {got} elements, expected {len}")))
    }

    /// The array.
    pub fn into_object(self) -> Bound<'py, PyAny> {
        self.object
    }
}

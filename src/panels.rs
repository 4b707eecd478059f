//! Panels: the packed bytes of 64 rows at a time, transposed, as kernels read them.

use crate::codec::{CodecError, validate_row};
use crate::isa::Backend;
#[cfg(feature = "train")]
use crate::kernels::auto::transpose::transposed_panel;
use crate::kernels::call::PanelView;
use crate::kernels::contract::{DEPTH_MULTIPLE, PANEL_ROWS};
use crate::kernels::memory::panel_memory;
use crate::matrix::{MatrixError, TernaryMatrix, check_cols, check_scale_count};
use crate::memory::{self, OutOfMemory};
use crate::mismatch::check_length;
use crate::product::plan::{self, strips};
use crate::scales::{Granularity, Scales};
use crate::threads::{Stopped, Threads};
use crate::view::MatRef;
use crate::workspace::{Weights, Workspace};
use core::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A ternary matrix in panels: `panel[p][strip][r]` is byte `strip` of row
/// `64 p + r`. Rows are padded with zeros to 64, strips to a multiple of 3.
///
/// One layout serves every instruction set and every number of tokens, so a
/// panel file can be mapped into memory and used anywhere. Cloning and slicing
/// share the bytes.
///
/// The length of a row is padded to 12 weights only: a whole 240-weight block
/// of the canonical order would cost 5 % more memory traffic at K = 4096.
#[derive(Clone, Debug)]
pub struct Panels {
    bytes: PanelBytes,
    /// First byte of the first panel.
    offset: usize,
    rows: usize,
    cols: usize,
}

/// Bytes in memory that somebody owns: panels or a panel file. Made by `From` of what the
/// caller has, or by [`shared`](Self::shared) of a part of it; any alignment works, 64 bytes
/// is fastest. Cloning shares them.
#[derive(Clone)]
pub struct PanelBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl PanelBytes {
    /// The bytes `range` of what `owner` has, such as a file that is mapped into memory. It
    /// must give the same bytes every time, or products are wrong or panic.
    ///
    /// # Errors
    /// If there are not as many.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tritgemm::{MatRef, PanelBytes, Panels};
    /// let panels = Panels::from_packed(MatRef::new(&[0b01_00_10_01_u8], 1, 1)?, 4)?;
    /// let mut container = b"a header and ".to_vec();
    /// container.extend(panels.as_bytes());
    /// let bytes = PanelBytes::shared(Arc::new(container), 13..13 + panels.as_bytes().len())?;
    /// let same = Panels::from_bytes(bytes, 1, 4)?;
    /// assert_eq!(same.to_packed(), [0b01_00_10_01]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn shared(
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: Range<usize>,
    ) -> Result<Self, MatrixError> {
        let len = (*owner).as_ref().len();
        if range.start > range.end || range.end > len {
            return Err(MatrixError::NoBytes { range, len });
        }
        Ok(Self { owner, range })
    }

    /// All bytes of an owner.
    pub(crate) fn owned(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        let owner = Arc::new(owner);
        Self { owner, range }
    }

    /// Some of the bytes.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.range.len());
        let range = self.range.start + range.start..self.range.start + range.end;
        let owner = self.owner.clone();
        Self { owner, range }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl core::fmt::Debug for PanelBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("PanelBytes").field(&self.as_slice()).finish()
    }
}

impl From<Vec<u8>> for PanelBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::owned(bytes)
    }
}

impl From<Arc<[u8]>> for PanelBytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        Self::owned(bytes)
    }
}

impl From<&'static [u8]> for PanelBytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self::owned(bytes)
    }
}

/// What a code stands for; that which no weight has counts as 0.
fn trit(code: u8) -> i8 {
    match code {
        0b01 => 1,
        0b10 => -1,
        _ => 0,
    }
}

/// Strips of a panel of `cols` columns.
pub(crate) fn depth(cols: usize) -> usize {
    strips(cols).next_multiple_of(DEPTH_MULTIPLE)
}

/// Bytes of the panels of a `rows x cols` matrix, if they can be addressed.
pub(crate) fn panel_bytes(rows: usize, cols: usize) -> Option<usize> {
    let bytes = rows
        .div_ceil(PANEL_ROWS)
        .checked_mul(depth(cols).checked_mul(PANEL_ROWS)?)?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

impl Panels {
    /// Lays a matrix out in panels, inside the caller's rayon pool if it is in
    /// one. Runs near copy speed.
    ///
    /// # Errors
    /// If `TRITGEMM_ISA` names an unavailable instruction set, or memory runs
    /// out.
    pub fn pack(matrix: &TernaryMatrix) -> Result<Self, MatrixError> {
        let backend = Backend::active().map_err(CodecError::from)?;
        Ok(Self::pack_with(backend, &Threads::Rayon, matrix)?)
    }

    /// As [`Panels::pack`], by the backend and the threads of a workspace.
    ///
    /// # Errors
    /// As [`Panels::pack`], or if a [`ParallelFor`](crate::ParallelFor) left work out.
    pub fn pack_on(matrix: &TernaryMatrix, ws: &Workspace) -> Result<Self, MatrixError> {
        let backend = ws.backend().map_err(CodecError::from)?;
        let threads = ws.options().workers();
        Ok(Self::pack_with(backend, threads, matrix)?)
    }

    pub(crate) fn pack_with(
        backend: Backend,
        threads: &Threads,
        matrix: &TernaryMatrix,
    ) -> Result<Self, Stopped> {
        let row_bytes = matrix.cols().div_ceil(4);
        let packed = MatRef::dense(matrix.packed(), matrix.rows(), row_bytes);
        Self::pack_bytes(backend, threads, packed, matrix.cols())
    }

    /// From packed bytes `[rows][ceil(cols / 4)]` of rows of `cols` weights,
    /// checked first.
    ///
    /// # Errors
    /// If a code is 11, padding bits are not zero, the rows are not as long as
    /// `cols` calls for, `cols` is more than [`MAX_COLS`](crate::MAX_COLS),
    /// `TRITGEMM_ISA` names kernels that cannot run here, or memory runs out.
    pub fn from_packed(packed: MatRef<'_, u8>, cols: usize) -> Result<Self, MatrixError> {
        check_cols(cols)?;
        crate::codec::validate(packed, cols)?;
        let backend = Backend::active().map_err(CodecError::from)?;
        Ok(Self::pack_bytes(backend, &Threads::Rayon, packed, cols)?)
    }

    /// Lays out the transposed matrix `[cols, rows]`, without scales: a product
    /// with it takes the gradient of the outputs, once it is multiplied by the
    /// scales of the rows, back to the inputs. Inside the caller's rayon pool if
    /// it is in one.
    ///
    /// ```
    /// use tritgemm::{MatRef, Panels, Scales, TernaryMatrix};
    /// let trits = MatRef::new(&[1, 0, -1, 0, 1, 1], 2, 3)?;
    /// let w = TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0))?;
    /// let transposed = Panels::pack_transposed(&w)?;
    /// assert_eq!((transposed.rows(), transposed.cols()), (3, 2));
    /// assert_eq!(transposed.to_packed(), [0b01_00_00_00, 0b00_01_00_00, 0b10_01_00_00]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the matrix has more rows than a row may have columns
    /// ([`MAX_COLS`](crate::MAX_COLS)), or the panels do not fit the address
    /// space or memory.
    #[cfg(feature = "train")]
    pub fn pack_transposed(matrix: &TernaryMatrix) -> Result<Self, MatrixError> {
        let (rows, cols) = (matrix.cols(), matrix.rows());
        check_cols(cols)?;
        let len =
            panel_bytes(rows, cols).ok_or(crate::codec::CodecError::TooLarge { rows, cols })?;
        let row_bytes = matrix.cols().div_ceil(4);
        let mut bytes = crate::memory::zeroed_lines(len)?;
        crate::threads::each_row_mut(&mut bytes, depth(cols) * PANEL_ROWS, |p, panel| {
            transposed_panel(matrix.packed(), row_bytes, p * PANEL_ROWS / 4, panel);
        });
        Ok(Self::from_parts(PanelBytes::owned(bytes), 0, rows, cols))
    }

    fn pack_bytes(
        backend: Backend,
        threads: &Threads,
        packed: MatRef<'_, u8>,
        cols: usize,
    ) -> Result<Self, Stopped> {
        let rows = packed.rows();
        // The packed bytes are in memory, but their padding may be 64 times as long.
        let len = panel_bytes(rows, cols).ok_or(OutOfMemory { bytes: usize::MAX })?;
        let panels = rows.div_ceil(PANEL_ROWS);
        let (workers, per_item) = plan::packing(threads, len, panels);
        let shape = [panels, packed.cols(), depth(cols)];
        let run = |items, work: &(dyn Fn(usize) -> bool + Sync)| {
            threads.for_each(workers, items, |i| Ok(work(i)))
        };
        let (packed, stride) = packed.strided();
        let source = |_| panel_memory::rows_of(packed, stride);
        let bytes = panel_memory::pack(backend.runnable(), source, shape, per_item, run)?;
        let bytes = PanelBytes::owned(bytes.ok_or(OutOfMemory { bytes: len })?);
        Ok(Self::from_parts(bytes, 0, rows, cols))
    }

    /// Lays out rows that come from another format, in one pass and by the backend and the
    /// threads of a workspace: `fill(row, packed, scales)` is called once for each row, in any
    /// order, and writes its packed bytes, all of them, and its scales. Those are the row's
    /// part of `scales`, none where they are per tensor. Rows without weights are not asked
    /// for. After an error any of the scales may have been written.
    ///
    /// ```
    /// use tritgemm::{Linear, MatrixError, Panels, Scales, Workspace};
    /// // A format of our own: a byte of scale, and a byte of four weights.
    /// let file = [4, 0b01_00_10_00, 8, 0b00_00_00_01];
    /// let mut scales = Scales::per_row(vec![0.0; 2]);
    /// let panels = Panels::pack_rows(2, 4, &mut scales, &Workspace::new(), |row, packed, scale| {
    ///     scale[0] = f32::from(file[2 * row]);
    ///     packed[0] = file[2 * row + 1];
    ///     Ok::<_, MatrixError>(())
    /// })?;
    /// let layer = Linear::from_parts(panels, scales, None)?;
    /// let mut row = [0.0; 4];
    /// layer.unpack_row(1, &mut row)?;
    /// assert_eq!(row, [0.0, 0.0, 0.0, 8.0]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If `fill` gives one, or writes a code 11 or padding bits that are not zero: the error is
    /// that of the first such row. If there are more or fewer scales than the shape has, `cols`
    /// is more than [`MAX_COLS`](crate::MAX_COLS), the backend that was asked for is not
    /// available, a [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn pack_rows<E: From<MatrixError> + Send>(
        rows: usize,
        cols: usize,
        scales: &mut Scales,
        ws: &Workspace,
        fill: impl Fn(usize, &mut [u8], &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let len = Self::byte_len(rows, cols)?;
        check_scale_count(scales, rows, cols)?;
        let backend = ws
            .backend()
            .map_err(|e| MatrixError::from(CodecError::from(e)))?;
        if len == 0 {
            return Ok(Self::from_parts(Vec::new().into(), 0, rows, cols));
        }
        let threads = ws.options().workers();
        let panels = rows.div_ceil(PANEL_ROWS);
        let (workers, per_item) = plan::packing(threads, len, panels);
        let row_bytes = strips(cols);
        let scales_of_row = match scales.granularity() {
            Granularity::PerTensor => 0,
            _ => scales.values().len().checked_div(rows).unwrap_or(0),
        };
        // The scales of an item's rows are a row here, the last one shorter.
        let item_scales = per_item * PANEL_ROWS * scales_of_row;
        let mut of_items: Vec<Mutex<&mut [f32]>> = Vec::new();
        if item_scales > 0 {
            let parts = scales.values_mut().chunks_mut(item_scales);
            memory::extend(&mut of_items, parts.map(Mutex::new)).map_err(MatrixError::from)?;
        }
        let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
        let fail = |row: usize, error: E| {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.as_ref().is_none_or(|(first, _)| row < *first) {
                *failed = Some((row, error));
            }
        };
        let source = |item: usize| {
            let mut room = Vec::new();
            let mut scales = of_items
                .get(item)
                .map(|part| part.lock().unwrap_or_else(PoisonError::into_inner));
            let (fail, fill) = (&fail, &fill);
            move |panel: usize, pack: panel_memory::Pack<'_>| {
                let first = panel * PANEL_ROWS;
                let count = PANEL_ROWS.min(rows - first);
                if let Err(e) = memory::resize(&mut room, PANEL_ROWS * row_bytes, 0) {
                    fail(first, MatrixError::from(e).into());
                    return false;
                }
                for (row, packed) in (first..).zip(room.chunks_exact_mut(row_bytes).take(count)) {
                    let at = (row - item * per_item * PANEL_ROWS) * scales_of_row;
                    let scales = scales.as_deref_mut();
                    let scales = scales.map_or(&mut [][..], |all| &mut all[at..][..scales_of_row]);
                    let filled = fill(row, packed, scales).and_then(|()| {
                        let checked = validate_row(row, packed, cols);
                        checked.map_err(|e| MatrixError::from(e).into())
                    });
                    if let Err(e) = filled {
                        fail(row, e);
                        return false;
                    }
                }
                pack(&room[..count * row_bytes], row_bytes);
                true
            }
        };
        let run = |items, work: &(dyn Fn(usize) -> bool + Sync)| {
            threads.for_each(workers, items, |i| Ok(work(i)))
        };
        let shape = [panels, row_bytes, depth(cols)];
        let bytes = panel_memory::pack(backend.runnable(), source, shape, per_item, run);
        if let Some((_, error)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let bytes = bytes.map_err(MatrixError::from)?;
        let bytes = bytes
            .ok_or(OutOfMemory { bytes: len })
            .map_err(MatrixError::from)?;
        Ok(Self::from_parts(PanelBytes::owned(bytes), 0, rows, cols))
    }

    /// Panels that are laid out already, as [`Panels::as_bytes`] gives them:
    /// used where they are. Codes are not looked at; bytes that are no panels
    /// give wrong products, but no undefined behaviour.
    ///
    /// # Errors
    /// If `cols` is more than [`MAX_COLS`](crate::MAX_COLS), or `bytes` is not
    /// as long as [`Panels::byte_len`] says.
    ///
    /// ```
    /// use tritgemm::{MatRef, Panels, Scales, TernaryMatrix};
    /// let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
    /// let w = TernaryMatrix::from_trits(trits, Scales::per_tensor(0.5))?;
    /// let panels = Panels::pack(&w)?;
    /// let same = Panels::from_bytes(panels.as_bytes().to_vec(), 2, 2)?;
    /// assert_eq!(same.to_packed(), w.packed());
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn from_bytes(
        bytes: impl Into<PanelBytes>,
        rows: usize,
        cols: usize,
    ) -> Result<Self, MatrixError> {
        let (bytes, expected) = (bytes.into(), Self::byte_len(rows, cols)?);
        let len = bytes.as_slice().len();
        check_length("panels", len, expected)?;
        Ok(Self::from_parts(bytes, 0, rows, cols))
    }

    /// Bytes of the panels of a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// If `cols` is more than [`MAX_COLS`](crate::MAX_COLS), or they do not fit
    /// the address space.
    ///
    /// ```
    /// // Two panels of 64 rows, ceil(5 / 4) strips padded to 3.
    /// assert_eq!(tritgemm::Panels::byte_len(65, 5)?, 2 * 64 * 3);
    /// # Ok::<(), tritgemm::MatrixError>(())
    /// ```
    pub fn byte_len(rows: usize, cols: usize) -> Result<usize, MatrixError> {
        check_cols(cols)?;
        let too_large = CodecError::TooLarge { rows, cols };
        Ok(panel_bytes(rows, cols).ok_or(too_large)?)
    }

    /// Panels that lie `offset` bytes into `bytes`, already checked.
    pub(crate) fn from_parts(bytes: PanelBytes, offset: usize, rows: usize, cols: usize) -> Self {
        debug_assert!(
            panel_bytes(rows, cols).is_some_and(|len| bytes.as_slice().len() - offset >= len)
        );
        Self {
            bytes,
            offset,
            rows,
            cols,
        }
    }

    /// M, the number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K, the number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The panels' bytes, `[ceil(rows / 64)][depth][64]`.
    pub fn as_bytes(&self) -> &[u8] {
        let len = panel_bytes(self.rows, self.cols).expect("checked when made");
        &self.bytes.as_slice()[self.offset..][..len]
    }

    /// Rows `range`, without copying. The range starts at a multiple of 64 and
    /// ends at one or at the last row: what a tensor-parallel shard needs.
    ///
    /// # Errors
    /// If it does not, or leaves the matrix.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Panels, MatrixError> {
        let rows = self.rows;
        if range.start > range.end || range.end > rows {
            return Err(MatrixError::OutOfRange { range, rows });
        }
        let cut = |row: usize| row.is_multiple_of(PANEL_ROWS) || row == rows;
        if let Some(row) = [range.start, range.end].into_iter().find(|&row| !cut(row)) {
            return Err(MatrixError::Unaligned { row });
        }
        let panel = range.start.div_ceil(PANEL_ROWS);
        Ok(Panels {
            bytes: self.bytes.clone(),
            offset: self.offset + panel * PANEL_ROWS * depth(self.cols),
            rows: range.len(),
            cols: self.cols,
        })
    }

    /// The weights of one row, -1, 0 or +1, into `trits`, K values: a row of an embedding.
    ///
    /// # Errors
    /// If there is no such row, or `trits` has another length.
    pub fn unpack_row(&self, row: usize, trits: &mut [i8]) -> Result<(), MatrixError> {
        check_length("trits", trits.len(), self.cols)?;
        for (to, trit) in trits.iter_mut().zip(self.row_trits(row)?) {
            *to = trit;
        }
        Ok(())
    }

    /// The weights of one row.
    pub(crate) fn row_trits(&self, row: usize) -> Result<impl Iterator<Item = i8>, MatrixError> {
        if row >= self.rows {
            return Err(MatrixError::OutOfRange {
                range: row..row.saturating_add(1),
                rows: self.rows,
            });
        }
        let (panel, r) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let strips =
            self.as_bytes()[panel * PANEL_ROWS * depth(self.cols)..].chunks_exact(PANEL_ROWS);
        let four = move |strip: &[u8]| [6, 4, 2, 0].map(|shift| trit(strip[r] >> shift & 3));
        Ok(strips.flat_map(four).take(self.cols))
    }

    /// Back to packed rows, `[rows][ceil(cols / 4)]`. Aborts if memory runs out.
    pub fn to_packed(&self) -> Vec<u8> {
        let (row_bytes, stride) = (self.cols.div_ceil(4), depth(self.cols) * PANEL_ROWS);
        let mut packed = vec![0; self.rows * row_bytes];
        if row_bytes == 0 {
            return packed;
        }
        for (rows, panel) in packed
            .chunks_mut(PANEL_ROWS * row_bytes)
            .zip(self.as_bytes().chunks(stride))
        {
            for (r, row) in rows.chunks_mut(row_bytes).enumerate() {
                for (byte, strip) in row.iter_mut().zip(panel.chunks(PANEL_ROWS)) {
                    *byte = strip[r];
                }
            }
        }
        packed
    }

    /// What products run on.
    pub(crate) fn weights(&self) -> Weights<'_> {
        (self.view(), self.rows)
    }

    /// What the kernels read.
    pub(crate) fn view(&self) -> PanelView<'_> {
        PanelView::new(self.as_bytes(), depth(self.cols))
    }
}

//! What one scale covers, changed without changing a weight.

use tritgemm::{Granularity, Scales, TernaryMatrix};

/// Rows without columns have no bytes that vouch for them: more are not
/// believed where each would take a scale.
const MAX_EMPTY_ROWS: usize = 1 << 24;

/// The matrix with scales of `granularity`, if those it has say the same. A
/// scale that covers only weights of 0 says nothing: it gives way to others.
pub fn regroup(matrix: &TernaryMatrix, granularity: Granularity) -> Option<TernaryMatrix> {
    let (rows, cols, old) = (matrix.rows(), matrix.cols(), matrix.scales());
    if old.granularity() == granularity {
        return Some(matrix.clone());
    }
    let group = |granularity| match granularity {
        Granularity::PerGroup(size) => size.len(),
        _ => cols.max(1),
    };
    let (new_group, step) = (
        group(granularity),
        group(granularity).min(group(old.granularity())),
    );
    let new_groups = cols.div_ceil(new_group);
    let index = |row: usize, col: usize| match granularity {
        Granularity::PerTensor => 0,
        Granularity::PerRow => row,
        Granularity::PerGroup(_) => row * new_groups + col / new_group,
    };
    // Group sizes divide each other, so both scales of `step` columns are one.
    let count = granularity.scales(rows, cols)?;
    if cols == 0 && count > MAX_EMPTY_ROWS {
        return None;
    }
    let mut found: Vec<[Option<f32>; 2]> = vec![[None; 2]; count];
    for row in 0..if cols == 0 { 0 } else { rows } {
        for col in (0..cols).step_by(step) {
            let scale = matrix.scale(row, col);
            let [weighty, any] = &mut found[index(row, col)];
            any.get_or_insert(scale);
            if weighty.is_some_and(|w| w.to_bits() == scale.to_bits()) {
                continue;
            }
            let zero = (col..cols.min(col + step)).all(|c| trit_is_zero(matrix, row, c));
            if !zero && weighty.replace(scale).is_some() {
                return None;
            }
        }
    }
    let values: Vec<f32> = found
        .into_iter()
        .map(|[weighty, any]| weighty.or(any).unwrap_or(1.0))
        .collect();
    let scales = match granularity {
        Granularity::PerTensor => Scales::per_tensor(values[0]),
        Granularity::PerRow => Scales::per_row(values),
        Granularity::PerGroup(size) => Scales::per_group(size, values),
    };
    TernaryMatrix::from_packed(matrix.packed().to_vec(), rows, cols, scales).ok()
}

/// The matrix with as few scales as say the same.
pub fn coarsest(matrix: TernaryMatrix) -> TernaryMatrix {
    [Granularity::PerTensor, Granularity::PerRow]
        .into_iter()
        .find_map(|granularity| regroup(&matrix, granularity))
        .unwrap_or(matrix)
}

fn trit_is_zero(matrix: &TernaryMatrix, row: usize, col: usize) -> bool {
    let byte = matrix.packed()[row * matrix.cols().div_ceil(4) + col / 4];
    byte >> (6 - 2 * (col % 4)) & 3 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use tritgemm::{GroupSize, MatRef};

    const G64: Granularity = Granularity::PerGroup(GroupSize::G64);
    const G256: Granularity = Granularity::PerGroup(GroupSize::G256);

    fn matrix(trits: &[i8], cols: usize, scales: Scales) -> TernaryMatrix {
        let trits = MatRef::new(trits, trits.len() / cols, cols).unwrap();
        TernaryMatrix::from_trits(trits, scales).unwrap()
    }

    #[test]
    fn finer_and_back() {
        let trits = vec![1; 3 * 300];
        let rows = matrix(&trits, 300, Scales::per_row(vec![1.0, 2.0, 3.0]));
        let groups = regroup(&rows, G64).unwrap();
        assert_eq!(groups.scales().values().len(), 15);
        assert_eq!(groups.to_f32(), rows.to_f32());
        assert_eq!(regroup(&groups, Granularity::PerRow).unwrap(), rows);
        assert_eq!(coarsest(groups.clone()), rows);
        assert_eq!(regroup(&groups, Granularity::PerTensor), None);
        assert_eq!(regroup(&groups, G256).unwrap().to_f32(), rows.to_f32());
    }

    #[test]
    fn groups_that_differ_stay() {
        let scales = Scales::per_group(GroupSize::G64, vec![1.0, 2.0]);
        let groups = matrix(&[1; 100], 100, scales);
        assert_eq!(coarsest(groups.clone()), groups);
        assert_eq!(regroup(&groups, G256), None);
    }

    #[test]
    fn scales_of_zeros_give_way() {
        let mut trits = vec![0; 128];
        trits[70] = -1;
        let scales = Scales::per_group(GroupSize::G64, vec![9.0, 2.0]);
        let groups = matrix(&trits, 128, scales);
        let one = coarsest(groups.clone());
        assert_eq!(one.scales(), &Scales::per_tensor(2.0));
        assert_eq!(one.to_f32(), groups.to_f32());
        let zeros = matrix(&[0; 4], 2, Scales::per_row(vec![5.0, 6.0]));
        assert_eq!(coarsest(zeros).scales(), &Scales::per_tensor(5.0));
    }

    #[test]
    fn shapes_without_weights() {
        for (rows, cols) in [(0, 5), (5, 0), (0, 0)] {
            let trits = MatRef::new(&[], rows, cols).unwrap();
            let empty = TernaryMatrix::from_trits(trits, Scales::per_row(vec![1.0; rows]));
            let one = regroup(&empty.unwrap(), Granularity::PerTensor).unwrap();
            assert_eq!(one.scales(), &Scales::per_tensor(1.0));
            assert_eq!(
                regroup(&one, Granularity::PerRow)
                    .unwrap()
                    .scales()
                    .values()
                    .len(),
                rows
            );
        }
    }
}

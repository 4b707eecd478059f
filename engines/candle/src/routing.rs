//! Which experts tokens go to, as tensors say it and as experts run.

use candle_core::{DType, Error, Result, Shape, Tensor};

/// The rows of a mixture's products: row `n k + j` is of token `n` and the expert that is
/// the `j`th of its k.
pub(crate) struct Routing {
    /// N.
    pub(crate) tokens: usize,
    /// k.
    pub(crate) per_token: usize,
    /// All rows, those of the first expert first, an expert's by token.
    pub(crate) rows: Vec<usize>,
    /// Rows of each expert.
    pub(crate) counts: Vec<usize>,
}

impl Routing {
    /// Of `indices` `[N, k]`, numbers of so many experts.
    pub(crate) fn new(indices: &Tensor, experts: usize) -> Result<Self> {
        let name = "the indices of BitExperts";
        check_dtype(name, indices, DType::U32)?;
        let (tokens, per_token) = indices.dims2().map_err(|e| e.context(name))?;
        let experts_of: Vec<u32> = indices.flatten_all()?.to_vec1()?;
        let mut counts = vec![0; experts];
        for &expert in &experts_of {
            let Some(count) = counts.get_mut(expert as usize) else {
                return Err(Error::InvalidIndex {
                    op: "BitExperts",
                    index: expert as usize,
                    size: experts,
                }
                .bt());
            };
            *count += 1;
        }
        let mut rows: Vec<usize> = (0..experts_of.len()).collect();
        rows.sort_by_key(|&row| experts_of[row]);
        Ok(Self {
            tokens,
            per_token,
            rows,
            counts,
        })
    }

    /// The token of each of `rows`.
    pub(crate) fn tokens_of_rows(&self) -> Vec<usize> {
        self.rows.iter().map(|row| row / self.per_token).collect()
    }

    /// The token of `x`, `[N, K]` or `[N, k, K]`, that each of `rows` is made of.
    pub(crate) fn inputs(&self, x: &Tensor, features: usize) -> Result<Vec<usize>> {
        let token = [self.tokens, features];
        if x.dims() == token {
            return Ok(self.tokens_of_rows());
        }
        if x.dims() == [self.tokens, self.per_token, features] {
            return Ok(self.rows.clone());
        }
        let (n, k) = (self.tokens, self.per_token);
        Err(Error::UnexpectedShape {
            msg: format!(
                "the input of BitExperts must be [{n}, {features}] or [{n}, {k}, {features}] for indices [{n}, {k}]"
            ),
            expected: Shape::from(&token),
            got: x.shape().clone(),
        }
        .bt())
    }

    /// The weight of each of `rows`, of `weights` `[N, k]`.
    pub(crate) fn weights(&self, weights: &Tensor) -> Result<Vec<f32>> {
        check_dtype("the weights of BitExperts", weights, DType::F32)?;
        let expected = [self.tokens, self.per_token];
        if weights.dims() != expected {
            return Err(Error::UnexpectedShape {
                msg: "the weights of BitExperts must be as many as the indices".to_owned(),
                expected: Shape::from(&expected),
                got: weights.shape().clone(),
            }
            .bt());
        }
        let weights: Vec<f32> = weights.flatten_all()?.to_vec1()?;
        Ok(self.rows.iter().map(|&row| weights[row]).collect())
    }
}

fn check_dtype(name: &'static str, tensor: &Tensor, expected: DType) -> Result<()> {
    match tensor.dtype() {
        got if got != expected => Err(Error::UnexpectedDType {
            msg: name,
            expected,
            got,
        }
        .bt()),
        _ => Ok(()),
    }
}

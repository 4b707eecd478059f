//! The decoder block of the examples agrees with a dense one.

use crate::Result;
use crate::check::{MAX_DIFFERENCE, check, difference, inputs, run};
use crate::config::Config;
use crate::project::{Dense, random_weights};

#[test]
fn a_block_on_the_kernels_is_a_dense_block_on_the_int8_grid() -> Result<()> {
    // Fewer and more tokens than a tile of many, and than a block
    // of queries.
    for tokens in [3, 70] {
        let agreement = check(Config::SMALL, tokens, 1)?;
        assert!(
            agreement.projections > 0.0,
            "nothing was compared: {agreement:?}"
        );
    }
    Ok(())
}

#[test]
fn one_wrong_projection_would_show() -> Result<()> {
    let (weights, others) = (
        random_weights(&Config::SMALL, 1)?,
        random_weights(&Config::SMALL, 2)?,
    );
    let tokens = 20;
    let x = inputs(&Config::SMALL, tokens, 3);
    let right = run(Config::SMALL, &x, tokens, &mut Dense::new(&weights, true)?)?;
    for site in 0..weights.len() {
        let mut wrong = weights.clone();
        wrong[site] = others[site].clone();
        let wrong = run(Config::SMALL, &x, tokens, &mut Dense::new(&wrong, true)?)?;
        let apart = difference(&wrong, &right);
        assert!(apart > 5.0 * MAX_DIFFERENCE, "projection {site}: {apart}");
    }
    Ok(())
}

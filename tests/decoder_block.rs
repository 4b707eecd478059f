//! The decoder block of the examples agrees with a dense one.

#[path = "../examples/decoder_block/attention.rs"]
mod attention;
#[path = "../examples/decoder_block/block.rs"]
mod block;
#[path = "../examples/decoder_block/check.rs"]
mod check;
#[path = "../examples/decoder_block/config.rs"]
mod config;
#[path = "../examples/decoder_block/dense.rs"]
mod dense;
#[path = "../examples/decoder_block/project.rs"]
mod project;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[test]
fn a_block_on_the_kernels_is_a_dense_block_on_the_int8_grid() -> Result<()> {
    // Fewer and more tokens than a tile of the column lanes, and than a block
    // of queries.
    for tokens in [3, 70] {
        let agreement = check::check(config::Config::SMALL, tokens, 1)?;
        assert!(
            agreement.projections > 0.0,
            "nothing was compared: {agreement:?}"
        );
    }
    Ok(())
}

//! The sizes of a block.

/// Sizes and constants of a decoder block.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Values of a token between blocks.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Values between the MLP's projections.
    pub ffn: usize,
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// Epsilon of every norm.
    pub norm_eps: f32,
}

impl Config {
    /// BitNet b1.58 2B-4T (arXiv:2504.12285): one of its 30 blocks.
    pub const BITNET_2B: Config = Config {
        hidden: 2560,
        heads: 20,
        kv_heads: 5,
        head_dim: 128,
        ffn: 6912,
        rope_theta: 500_000.0,
        norm_eps: 1e-5,
    };

    /// The same shape an order of magnitude smaller, for tests.
    pub const SMALL: Config = Config {
        hidden: 512,
        heads: 4,
        kv_heads: 1,
        head_dim: 128,
        ffn: 1344,
        ..Config::BITNET_2B
    };

    /// Values of a token's queries.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values of a token's keys, and of its values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// `[rows, cols]` (M x K) of each projection, in the order of
    /// [`Site`](super::project::Site).
    pub fn shapes(&self) -> [[usize; 2]; 7] {
        let Config { hidden, ffn, .. } = *self;
        let (query, kv) = (self.query_width(), self.kv_width());
        [
            [query, hidden],
            [kv, hidden],
            [kv, hidden],
            [hidden, query],
            [ffn, hidden],
            [ffn, hidden],
            [hidden, ffn],
        ]
    }
}

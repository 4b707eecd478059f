//! Text as numbers, and batches of it.

use rand::Rng;

pub struct Text {
    /// The characters that occur, in order; a character's number is its place.
    pub alphabet: Vec<char>,
    train: Vec<usize>,
    held_out: Vec<usize>,
}

impl Text {
    /// The first nine tenths are for training, the rest is held out. `None` if
    /// either is too short for one context and its next character.
    pub fn new(text: &str, context: usize) -> Option<Self> {
        let mut alphabet: Vec<char> = text.chars().collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        let number = |c: char| alphabet.binary_search(&c).ok();
        let mut train: Vec<usize> = text.chars().filter_map(number).collect();
        let held_out = train.split_off(train.len() / 10 * 9);
        (held_out.len() > context).then_some(Self {
            alphabet,
            train,
            held_out,
        })
    }

    /// The numbers of `prompt`'s characters, those that occur.
    pub fn encode(&self, prompt: &str) -> Vec<usize> {
        let number = |c: char| self.alphabet.binary_search(&c).ok();
        prompt.chars().filter_map(number).collect()
    }

    /// Random contexts `[batch][context]` and the characters that follow.
    pub fn batch(
        &self,
        batch: usize,
        context: usize,
        rng: &mut impl Rng,
    ) -> (Vec<usize>, Vec<usize>) {
        let starts = (0..batch).map(|_| rng.random_range(0..self.train.len() - context));
        cut(&self.train, starts.collect(), context)
    }

    /// Every `stride`-th context of the held-out part.
    pub fn held_out(&self, context: usize, stride: usize) -> (Vec<usize>, Vec<usize>) {
        let starts = (0..self.held_out.len() - context).step_by(stride);
        cut(&self.held_out, starts.collect(), context)
    }
}

fn cut(text: &[usize], starts: Vec<usize>, context: usize) -> (Vec<usize>, Vec<usize>) {
    let contexts = starts.iter().flat_map(|&s| &text[s..s + context]).copied();
    let targets = starts.iter().map(|&s| text[s + context]);
    (contexts.collect(), targets.collect())
}

//! Decisions out of random octets. What is not there is zero, so that every input is valid.

/// Takes decisions from the front of an input.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Over these octets.
    pub fn new(octets: &'a [u8]) -> Self {
        Input { rest: octets }
    }

    /// The next octet.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// The next so many octets, or what is left.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// True when everything was taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Cuts octets into chunks: each octet of `cuts`, used round and round, is the length of a chunk but for one.
pub fn chunks<'a>(octets: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut lengths = cuts.iter().cycle();
    let mut rest = octets;
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |cut| usize::from(*cut) + 1).min(rest.len());
        let (chunk, behind) = rest.split_at(length);
        chunks.push(chunk);
        rest = behind;
    }
    chunks
}

//! The commands of one batch, encoded as they are made, each with the key that decides which node is asked.

use std::ops::Range;

use super::resp;

/// A batch of reading commands.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    keys: Vec<Range<usize>>,
}

impl Commands {
    pub(crate) fn with_capacity(commands: usize, bytes: usize) -> Self {
        let (ends, keys) = (Vec::with_capacity(commands), Vec::with_capacity(commands));
        Self { bytes: Vec::with_capacity(bytes), ends, keys }
    }

    /// Adds a command: its name, its key, and whatever follows, `more` arguments in number.
    pub(crate) fn push<'a>(&mut self, name: &str, key: &[u8], more: impl ExactSizeIterator<Item = &'a [u8]>) {
        resp::begin(&mut self.bytes, 2 + more.len());
        resp::push(&mut self.bytes, name.as_bytes());
        resp::push(&mut self.bytes, key);
        let end = self.bytes.len() - resp::LINE_END_BYTES;
        self.keys.push(end - key.len()..end);
        more.for_each(|argument| resp::push(&mut self.bytes, argument));
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn key(&self, command: usize) -> &[u8] {
        &self.bytes[self.keys[command].clone()]
    }

    /// The bytes of one command.
    pub(crate) fn get(&self, command: usize) -> &[u8] {
        &self.bytes[self.range(command)]
    }

    fn range(&self, command: usize) -> Range<usize> {
        let start = if command == 0 { 0 } else { self.ends[command - 1] };
        start..self.ends[command]
    }

    /// All of them, one after another.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

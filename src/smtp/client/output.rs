//! What a client session has to send, in as few writes as can be, without copying large chunks.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};

/// Octets to be sent: small ones gathered, large ones passed on.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) ready: VecDeque<Bytes>,
    open: BytesMut,
}

/// As much is gathered before it is sent, in octets.
const GATHER: usize = 64 << 10;
/// A chunk of this size is not worth copying.
const LARGE: usize = 32 << 10;

impl Output {
    pub(super) fn put(&mut self, octets: &[u8]) {
        self.open.extend_from_slice(octets);
        if self.open.len() >= GATHER {
            self.close();
        }
    }

    pub(super) fn put_chunk(&mut self, chunk: Bytes) {
        if chunk.len() >= LARGE {
            self.close();
            self.ready.push_back(chunk);
        } else {
            self.put(&chunk);
        }
    }

    pub(super) fn close(&mut self) {
        if !self.open.is_empty() {
            self.ready.push_back(mem::take(&mut self.open).freeze());
        }
    }
}

//! Bodies that may be as large as a message: how much memory they may have together, and how long they may take.
//!
//! A body that is held whole reserves its size before it is read ([`Bodies`]); who finds no room waits, and is told 503 when it
//! takes too long. A body may take 30 seconds, and longer as it is larger: a second for each 64 KiB.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::BODY_TIMEOUT;
use super::problem::{Problem, ProblemKind};

/// Octets of bodies in memory together. Each costs several times as much while a message is made of it.
const MEMORY: usize = 96 << 20;
/// What is reserved at a time.
const UNIT: usize = 16 << 10;
/// The least rate, in octets a second.
const LEAST_RATE: u64 = 64 << 10;

/// The memory that bodies may have together.
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Bodies(Arc::new(Semaphore::new(MEMORY / UNIT)))
    }
}

/// A body that was read, and its reservation.
pub(super) struct Held {
    pub(super) octets: Vec<u8>,
    /// For as long as something is made of it.
    pub(super) room: OwnedSemaphorePermit,
}

impl Bodies {
    /// Reads a body whole.
    pub(super) async fn read(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
        most: usize,
    ) -> Result<Held, Problem> {
        let most = most.min(MEMORY - UNIT);
        let announced = announced(request);
        let size = announced.unwrap_or(most as u64);
        if size > most as u64 {
            return Err(too_large(most));
        }
        let units = u32::try_from(size as usize / UNIT + 1).unwrap_or(u32::MAX);
        let room = timeout(BODY_TIMEOUT, self.0.clone().acquire_many_owned(units)).await;
        let Ok(Ok(room)) = room else {
            let detail = "too many large requests at once; come again";
            return Err(Problem::new(ProblemKind::Unavailable, detail).with_header(header::RETRY_AFTER, "5"));
        };
        let mut octets = Vec::with_capacity(announced.map_or(0, |size| size as usize));
        let mut stream = Chunks::new(payload, size);
        while let Some(chunk) = stream.next().await? {
            if octets.len() + chunk.len() > most {
                return Err(too_large(most));
            }
            octets.extend_from_slice(&chunk);
        }
        Ok(Held { octets, room })
    }
}

/// A body, chunk by chunk, in its time.
pub(super) struct Chunks {
    payload: web::Payload,
    until: Instant,
}

impl Chunks {
    /// Of a body that is about so large.
    pub(super) fn new(payload: web::Payload, size: u64) -> Self {
        Chunks { payload, until: Instant::now() + BODY_TIMEOUT + Duration::from_secs(size / LEAST_RATE) }
    }

    /// The next chunk; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<web::Bytes>, Problem> {
        match timeout_at(self.until, self.payload.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(error))) => Err(Problem::new(ProblemKind::Malformed, error.to_string())),
            Err(_) => Err(Problem::new(ProblemKind::RequestTimeout, "the body took too long")),
        }
    }
}

/// The size that a request says its body has.
pub(super) fn announced(request: &HttpRequest) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn too_large(most: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("the body of this request has at most {most} bytes"))
}

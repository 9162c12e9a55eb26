//! Bodies of one JSON object a line, read in batches: memory is bounded by a batch, whatever comes.
//!
//! OpenAPI describes such a body as what it is to HTTP, a text; `contentSchema` names what a line is.

use actix_web::web;
use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use serde_json::Value;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{Ref, RefOr, Schema};

use super::body::BODY_TIMEOUT;
use super::problem::{Problem, ProblemKind};

/// The media type.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// A type of its own for a body whose lines are of the type `$line`; only described.
macro_rules! lines {
    ($name:ident of $line:ident, $about:literal) => {
        #[doc = $about]
        pub enum $name {}

        impl ::utoipa::PartialSchema for $name {
            fn schema() -> ::utoipa::openapi::RefOr<::utoipa::openapi::Schema> {
                $crate::api::ndjson::text_of(stringify!($line), $about)
            }
        }

        impl ::utoipa::ToSchema for $name {
            fn schemas(schemas: &mut Vec<(String, ::utoipa::openapi::RefOr<::utoipa::openapi::Schema>)>) {
                schemas.push((stringify!($line).to_owned(), <$line as ::utoipa::PartialSchema>::schema()));
                <$line as ::utoipa::ToSchema>::schemas(schemas);
            }
        }
    };
}
pub(super) use lines;

/// The schema of a text whose lines are of the named type.
pub(super) fn text_of(line: &str, about: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .content_media_type(NDJSON)
        .content_schema(Some(Ref::from_schema_name(line)))
        .description(Some(about))
        .into()
}

/// An example of such a body: one line.
pub(super) fn line(value: &Value) -> Value {
    Value::String(format!("{value}\n"))
}

/// A line: its number (the first is 1) and what is in it, or why that cannot be read.
pub(super) type Line = (u64, Result<Value, String>);

/// A body of lines.
pub(super) struct Lines {
    payload: web::Payload,
    buffer: BytesMut,
    searched: usize,
    number: u64,
    max_line: usize,
    ended: bool,
}

impl Lines {
    /// Over this body; a line has at most so many octets.
    pub(super) fn new(payload: web::Payload, max_line: usize) -> Self {
        Lines { payload, buffer: BytesMut::new(), searched: 0, number: 0, max_line, ended: false }
    }

    /// Up to `most` lines that are not empty; none at the end.
    ///
    /// # Errors
    /// 408 when nothing comes for 30 seconds, 413 for a line that is too long, 400 when the body breaks off.
    pub(super) async fn batch(&mut self, most: usize) -> Result<Vec<Line>, Problem> {
        let mut lines = Vec::new();
        while lines.len() < most {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                self.take(&line, &mut lines)?;
                continue;
            }
            self.searched = self.buffer.len();
            if self.ended {
                let rest = self.buffer.split();
                self.searched = 0;
                self.take(&rest, &mut lines)?;
                break;
            }
            if self.buffer.len() > self.max_line {
                return Err(self.too_long());
            }
            let next = tokio::time::timeout(BODY_TIMEOUT, self.payload.next()).await.map_err(|_| {
                let detail = format!("nothing came for {} seconds", BODY_TIMEOUT.as_secs());
                Problem::new(ProblemKind::RequestTimeout, detail)
            })?;
            match next {
                Some(chunk) => {
                    let chunk = chunk.map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))?;
                    self.buffer.extend_from_slice(&chunk);
                }
                None => self.ended = true,
            }
        }
        Ok(lines)
    }

    fn take(&mut self, line: &[u8], lines: &mut Vec<Line>) -> Result<(), Problem> {
        if line.is_empty() && self.ended {
            return Ok(());
        }
        if line.len() > self.max_line {
            return Err(self.too_long());
        }
        self.number += 1;
        if !line.iter().all(u8::is_ascii_whitespace) {
            let read = crate::config::strict::json(line)
                .map_err(|error| format!("no valid JSON at column {}: {error}", error.column()));
            lines.push((self.number, read));
        }
        Ok(())
    }

    fn too_long(&self) -> Problem {
        let detail = format!("line {} is longer than {} bytes", self.number + 1, self.max_line);
        Problem::new(ProblemKind::TooLarge, detail)
    }
}

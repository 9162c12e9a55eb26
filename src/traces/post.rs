//! One request to a collector: OTLP over HTTP, as JSON.

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::{Collector, NotTaken};
use crate::config::watching::TraceExport;
use crate::net::http::{Http, causes, first_words};

#[async_trait]
impl Collector for Http {
    async fn post(&self, export: &TraceExport, body: Bytes) -> Result<(), NotTaken> {
        let later = |words: String| NotTaken { words, permanent: false };
        let origin = export.url.origin();
        let client = self.client().await;
        let client = client.map_err(|error| later(format!("no request can be made: {}", causes(&error))))?;
        let mut request = client
            .post(export.url.url().clone())
            .timeout(export.timeout)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        for (name, value) in &export.headers {
            let value = value.as_ref().map_err(|why| later(format!("the value of {name} cannot be had: {why}")))?;
            let value = HeaderValue::from_str(value.reveal());
            let mut value = value.map_err(|_| later(format!("the value of {name} cannot stand in a header")))?;
            value.set_sensitive(true);
            let name = HeaderName::from_bytes(name.as_str().as_bytes());
            request = request.header(name.map_err(|error| later(error.to_string()))?, value);
        }
        match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                // read a little of it, whatever it is: so the connection can be used again, or goes
                let said = first_words(answer).await;
                if status.is_success() {
                    return Ok(());
                }
                // as the protocol has it, and whatever a proxy says that lacks the collector
                let again = status.is_server_error() || [408, 429].contains(&status.as_u16());
                let said = if said.is_empty() { said } else { format!(": {said}") };
                Err(NotTaken { words: format!("{origin} answered {}{said}", status.as_u16()), permanent: !again })
            }
            Err(error) if error.is_timeout() => Err(later(format!("{origin} did not answer in time"))),
            Err(error) => Err(later(format!("no answer from {origin}: {}", causes(&error)))),
        }
    }
}

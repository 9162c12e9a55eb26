//! What holds for every request: keys, methods, media types, sizes, parameters, problems, documentation, probes.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::api_house::{Answer, House, KEY};
use super::openapi::{mismatches, resolve};

#[tokio::test]
async fn nothing_is_served_without_a_key_and_everything_with_it() {
    let house = House::open().await;
    house.queue.add("a@example.net", "b@example.com", "dns:default:example.com");
    let document = serde_json::to_value(bridgehead::api::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "patch", "post", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            let method = method.to_uppercase();
            let guarded = path.starts_with("/api/v1") || path == "/metrics";
            let path = example_path(path, operation);
            let answer = house.send(&method, &path, &[], b"").await;
            match guarded {
                true => {
                    answer.is_problem(401, "unauthorized");
                    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{answer:?}");
                }
                false => assert!(answer.status < 400, "{method} {path}: {answer:?}"),
            }
            let answer = house.call(&method, &path).await;
            let missing = answer.status == 404 && answer.json()["detail"].to_string().contains("no operation");
            assert!(!missing && answer.status != 405 && answer.status < 500, "{method} {path}: {answer:?}");
            answers_as_documented(&document, operation, &answer);
        }
    }
    house.server.stop().await;
}

/// The status is documented, and the body has the documented shape.
#[track_caller]
fn answers_as_documented(document: &Value, operation: &Value, answer: &Answer) {
    let id = &operation["operationId"];
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{id} answers {} undocumented", answer.status);
    let response = resolve(document, response);
    match (response.get("content"), answer.body.is_empty()) {
        (None, empty) => assert!(empty, "{id}: {answer:?}"),
        (Some(content), _) => {
            let media = answer.header("content-type");
            let content = content.get(media).unwrap_or(&content[media.split(';').next().unwrap_or_default()]);
            assert!(content.is_object(), "{id}: {media} is not documented");
            if media.ends_with("/json") || media.ends_with("+json") {
                let wrong = mismatches(document, &content["schema"], &answer.json());
                assert!(wrong.is_empty(), "{id}: {wrong:?} in {answer:?}");
            }
        }
    }
}

pub fn example_path(path: &str, operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.filter(|parameter| parameter["in"] == "path").fold(path.to_owned(), |path, parameter| {
        let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
        let example = &parameter["example"];
        path.replace(&name, &example.as_str().map_or_else(|| example.to_string(), str::to_owned))
    })
}

#[tokio::test]
async fn no_spelling_of_a_path_or_a_key_gets_around_the_check() {
    let house = House::open().await;
    for path in [
        "/%61pi/v1/settings",
        "/api/%76%31/settings",
        "/api/v1/./settings",
        "/api/v1//settings",
        "/api/v1/settings/",
        "/api/v1/nothing",
        "/api/v1/",
        "//api/v1/settings",
        "/docs/../api/v1/settings",
        "/API/v1/settings",
    ] {
        let answer = house.send("GET", path, &[], b"").await;
        assert!(answer.status == 401 || answer.status == 404, "{path}: {answer:?}");
    }
    for (name, value) in [
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer "),
        ("Authorization", KEY),
        ("Authorization", "Basic dGVzdA=="),
        ("Authorization", "Bearer wrong"),
        ("X-Api-Key", KEY),
        ("Cookie", KEY),
    ] {
        house.send("GET", "/api/v1/settings", &[(name, value)], b"").await.is_problem(401, "unauthorized");
    }
    let query = format!("/api/v1/settings?access_token={KEY}");
    house.send("GET", &query, &[], b"").await.is_problem(401, "unauthorized");
    let (one, two) = (format!("Bearer {KEY}"), "Bearer wrong");
    let both = [("Authorization", two), ("Authorization", one.as_str())];
    house.send("GET", "/api/v1/settings", &both, b"").await.is_problem(401, "unauthorized");
    let first = format!("bearer {}", house.first_key);
    assert_eq!(house.send("GET", "/api/v1/settings", &[("authorization", &first)], b"").await.status, 200);
}

#[tokio::test]
async fn guessing_keys_is_slowed() {
    let house = House::open().await;
    for n in 0..10 {
        let guess = format!("Bearer guess-{n}");
        house.send("GET", "/api/v1/settings", &[("Authorization", &guess)], b"").await.is_problem(401, "unauthorized");
    }
    let answer = house.send("GET", "/api/v1/settings", &[("Authorization", "Bearer guess-10")], b"").await;
    answer.is_problem(429, "tooManyRequests");
    // who comes by the same proxy with a key that cannot be guessed is not locked out; a wrong one of that kind is
    let first = format!("Bearer {}", house.first_key);
    assert_eq!(house.send("GET", "/api/v1/settings", &[("Authorization", &first)], b"").await.status, 200);
    let wrong = format!("Bearer bh_{}", "x".repeat(43));
    let refused = house.send("GET", "/api/v1/settings", &[("Authorization", &wrong)], b"").await;
    refused.is_problem(429, "tooManyRequests");
    assert!((1..=61).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "{answer:?}");
    assert_eq!(house.send("GET", "/livez", &[], b"").await.status, 200, "a probe shows no key");
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_cannot_be_done_is_405_with_the_methods_that_can() {
    let house = House::open().await;
    for path in [
        "/nothing",
        "/api/v2/settings",
        "/api/v1/connector",
        "/api/v1/connectors/x/y",
        "/docs/nothing.js",
        "/docs/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/connectors/%ff",
        "/api/v1/connectors/a%2fb",
        "/api/v1/connectors/%00",
        "/api/v1/connectors/..",
        "/%",
        "/api/v1/queues/%ff",
    ] {
        house.call("GET", path).await.is_problem(404, "notFound");
    }
    for (method, path, allow) in [
        ("POST", "/api/v1/connectors", "GET, HEAD"),
        ("POST", "/api/v1/connectors/default", "GET, HEAD, PUT, PATCH, DELETE"),
        ("DELETE", "/api/v1/settings", "GET, HEAD, PUT, PATCH"),
        ("GET", "/api/v1/queues/unrouted/freeze", "POST"),
        ("OPTIONS", "/api/v1/messages", "GET, HEAD, POST"),
        ("BREW", "/livez", "GET, HEAD"),
    ] {
        let answer = house.call(method, path).await;
        answer.is_problem(405, "methodNotAllowed");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    for (method, path) in
        [("PUT", "/api/v1/domains/example.com"), ("DELETE", "/api/v1/domains/example.com"), ("POST", "/api/v1/domains")]
    {
        let problem = house.call(method, path).await.is_problem(405, "methodNotAllowed");
        assert!(problem["detail"].to_string().contains("recipient policies"), "{problem}");
    }
}

#[tokio::test]
async fn bodies_are_read_strictly() {
    let house = House::open().await;
    let path = "/api/v1/connectors/new";
    let json = "application/json";
    for media in ["text/plain", "application/merge-patch+json", "application/xml", ""] {
        let answer = house.write("PUT", path, media, &[], b"{}").await;
        answer.is_problem(415, "unsupportedMediaType");
    }
    let answer = house.write("PATCH", path, json, &[], b"{}").await;
    answer.is_problem(415, "unsupportedMediaType");
    assert_eq!(answer.header("accept-patch"), "application/merge-patch+json");
    let answer = house.write("PUT", path, json, &[("Content-Encoding", "gzip")], b"\x1f\x8b").await;
    answer.is_problem(415, "unsupportedMediaType");

    let bomb = "[".repeat(100_000);
    let number = format!("{{\"spec\":{}}}", "9".repeat(1_000_000));
    for (body, code) in [
        ("{", "malformed"),
        ("", "malformed"),
        ("{\"spec\": {}} x", "malformed"),
        ("{'spec': {}}", "malformed"),
        ("\u{0}", "malformed"),
        (bomb.as_str(), "malformed"),
        (number.as_str(), "malformed"),
        ("{\"spec\": {},\n \"spec\": {}}", "repeatedField"),
        ("{\"spec\": {\"enabled\": true, \"enabled\": false}}", "repeatedField"),
    ] {
        let answer = house.write("PUT", path, "application/json; charset=utf-8", &[], body.as_bytes()).await;
        let problem = answer.is_problem(400, "malformed");
        assert!(problem["detail"].to_string().contains("at line "), "{problem}");
        assert_eq!(problem["errors"][0]["code"], code, "{problem}");
    }
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    house.write("PUT", path, json, &[], &huge).await.is_problem(413, "tooLarge");
    house.write("PUT", path, json, &[], b"[]").await.is_problem(422, "invalid");
    house.write("PUT", path, json, &[], b"null").await.is_problem(422, "invalid");
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let house = House::open().await;
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let body = format!("{chunk}{chunk}{chunk}{chunk}{chunk}0\r\n\r\n");
    // Sent by hand, as the client of the house announces a length.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(house.server.addresses()[0]).await.unwrap();
    let head = format!(
        "PUT /api/v1/connectors/new HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let _ = stream.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn parameters_are_read_strictly_and_all_mistakes_are_named() {
    let house = House::open().await;
    for (path, errors) in [
        ("/api/v1/connectors?limt=5", vec![("limt", "unknownParameter")]),
        ("/api/v1/connectors?limit=0&x=1&x=2", vec![("limit", "outOfRange"), ("x", "unknownParameter")]),
        ("/api/v1/connectors?limit=1001", vec![("limit", "outOfRange")]),
        (
            "/api/v1/connectors?limit=ten&labelSelector=a%20b",
            vec![("limit", "invalidParameter"), ("labelSelector", "invalidParameter")],
        ),
        ("/api/v1/connectors?limit=1&limit=2", vec![("limit", "repeatedParameter")]),
        ("/api/v1/connectors?cursor=zz", vec![("cursor", "invalidCursor")]),
        ("/api/v1/connectors/default?pretty", vec![("pretty", "unknownParameter")]),
        ("/api/v1/recipients?address=nobody", vec![("address", "invalidParameter")]),
        (
            "/api/v1/messages?state=lost&olderThan=5&since=yesterday&sender=x",
            vec![
                ("state", "invalidParameter"),
                ("olderThan", "invalidParameter"),
                ("since", "invalidParameter"),
                ("sender", "invalidParameter"),
            ],
        ),
        ("/livez?verbose=1", vec![("verbose", "unknownParameter")]),
    ] {
        let answer = house.call("GET", path).await;
        let problem = answer.is_problem(400, "badParameter");
        let expected = errors.iter().map(|(place, code)| ((*place).to_owned(), (*code).to_owned())).collect();
        assert_eq!(answer.errors(), expected, "{path}");
        assert!(errors.iter().all(|(place, _)| problem["detail"].to_string().contains(place)), "{problem}");
    }
    house.call("DELETE", "/api/v1/connectors/default?dryRun=yes").await.is_problem(400, "badParameter");
    house.call("DELETE", "/api/v1/connectors/default?dryrun=true").await.is_problem(400, "badParameter");
}

#[tokio::test]
async fn answers_carry_the_id_of_the_request_and_what_browsers_need() {
    let house = House::open().await;
    let answer = house.send("GET", "/", &[("X-Request-Id", "my-id.1")], b"").await;
    assert_eq!(answer.header("x-request-id"), "my-id.1");
    assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    for strange in ["", "a b", "<x>", &"x".repeat(65)] {
        let answer = house.send("GET", "/", &[("X-Request-Id", strange)], b"").await;
        assert!(answer.header("x-request-id").len() == 36, "{answer:?}");
    }
    let head = house.send("HEAD", "/livez", &[], b"").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_ne!(head.header("content-length"), "0");
}

#[tokio::test]
async fn the_documentation_needs_no_network() {
    let house = House::open().await;
    assert_eq!(house.send("GET", "/docs", &[], b"").await.header("location"), "docs/");
    let page = house.send("GET", "/docs/", &[], b"").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'self';") && policy.contains("default-src 'none'"), "{policy}");
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "{}", page.body);
    assert!(!page.body.contains("<script>"), "an inline script would not run: {}", page.body);
    for file in page.body.split(['"', '\'']).filter(|text| text.starts_with("./")) {
        let answer = house.send("GET", &format!("/docs/{}", &file[2..]), &[], b"").await;
        assert_eq!(answer.status, 200, "{file}");
    }
    let script = house.send("GET", "/docs/swagger-initializer.js", &[], b"").await;
    assert!(script.body.contains("../openapi.json") && script.body.contains("none"), "{}", script.body);
    // it travels packed to whom that suits
    let bundle = "/docs/swagger-ui-bundle.js";
    let plain = house.send("GET", bundle, &[], b"").await;
    assert_eq!((plain.status, plain.header("content-encoding"), plain.header("vary")), (200, "", "accept-encoding"));
    assert!(plain.body.contains("SwaggerUIBundle") && plain.body.len() > 1_000_000, "{}", plain.body.len());
    let packed = house.send("HEAD", bundle, &[("Accept-Encoding", "gzip, br")], b"").await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.header("content-length").parse::<usize>().unwrap() < plain.body.len() / 2);
    for unwanted in ["identity", "br", "gzip;q=0", "identity, gzip;q=0"] {
        let answer = house.send("HEAD", bundle, &[("Accept-Encoding", unwanted)], b"").await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, ""), "{unwanted}");
    }
    let document = house.send("GET", "/openapi.json", &[], b"").await;
    assert_eq!(document.json()["openapi"], "3.1.0");
    assert!(document.body == bridgehead::api::openapi_json(), "BRIDGEHEAD_BLESS=1 cargo test openapi, and build again");
}

#[tokio::test]
async fn probes_give_reasons_and_metrics_only_to_those_with_a_key() {
    let house = House::open().await;
    for path in ["/livez", "/readyz", "/startupz"] {
        for answer in [house.send("GET", path, &[], b"").await, house.probe("GET", path).await] {
            assert_eq!((answer.status, answer.json()), (200, json!({"status": "passed"})));
        }
        let answer = house.call("GET", path).await;
        assert_eq!(answer.json()["checks"][0]["name"], "store");
        house.send("GET", path, &[("Authorization", "Bearer wrong")], b"").await.is_problem(401, "unauthorized");
    }
    house.ready.store(false, std::sync::atomic::Ordering::Relaxed);
    for answer in [house.send("GET", "/readyz", &[], b"").await, house.probe("GET", "/readyz").await] {
        assert_eq!((answer.status, answer.json()), (503, json!({"status": "failed"})));
    }
    assert_eq!(house.call("GET", "/readyz").await.json()["checks"][0]["detail"], "a secret reason");
    house.send("GET", "/metrics", &[], b"").await.is_problem(401, "unauthorized");
    assert_eq!(house.call("GET", "/metrics").await.body, "# EOF\n");
    assert_eq!(house.probe("GET", "/metrics").await.body, "# EOF\n");
    house.probe("GET", "/api/v1/settings").await.is_problem(404, "notFound");
    assert_eq!(house.probe("HEAD", "/livez").await.status, 200);
    let answer = house.probe("POST", "/livez").await;
    answer.is_problem(405, "methodNotAllowed");
    assert_eq!(answer.header("allow"), "GET, HEAD");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let house = House::open().await;
    let taken = house.server.addresses()[0];
    let error = match House::open_at(taken).await {
        Ok(_) => panic!("two servers on one port"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(&taken.to_string()) && error.contains("REST"), "{error}");
}

#[tokio::test]
async fn stopping_ends_what_has_begun_and_waits_for_nobody_who_is_silent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let house = House::open().await;
    let address = house.server.addresses()[0];
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 12];
    silent.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200");
    let begun = std::time::Instant::now();
    house.server.stop().await;
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(8),
        "it waited {:?} for an idle connection",
        begun.elapsed()
    );
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

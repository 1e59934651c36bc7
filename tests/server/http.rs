//! HTTP requests as the application sees them, and its responses as clients see them.

use std::time::Duration;

use channel_layer::{Message, Value, message};

use super::running::{Running, header, ok};
use crate::support::{Counts, DEADLINE, within};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_request_becomes_a_message_and_the_answer_a_response() {
    let server = Running::with(|server| server.root_path("/site")).await;
    let request = "POST /caf%C3%A9?q=%20a HTTP/1.1\r\nHost: example.org\r\nX-Tag: 1\r\nX_Tag: forged\r\nx-tag: 2\r\n\
                   Content-Length: 5\r\n\r\nhello";
    let mut client = server.sent(request).await;
    let message = server.next("http.request").await;
    let text = |key: &str| message.text(key).unwrap().to_owned();
    assert_eq!([text("http_version"), text("method"), text("scheme")], ["1.1", "POST", "http"]);
    assert_eq!([text("path"), text("root_path")], ["/café", "/site"]);
    assert_eq!(message.bytes("query_string").unwrap(), "q=%20a");
    assert_eq!(message.bytes("body").unwrap(), "hello");
    assert_eq!(message.get("body_channel"), None);
    let lower = [("host", "example.org"), ("x-tag", "1"), ("x-tag", "2"), ("content-length", "5")];
    assert_eq!(message.get("headers"), Some(&Value::list(lower.map(|(name, value)| header(name, value)))));
    let client_address = message.get("client").unwrap().as_list().unwrap();
    assert_eq!(client_address[0].as_text(), Some("127.0.0.1"));
    let port = server.address.rsplit_once(':').unwrap().1.parse::<i64>().unwrap();
    assert_eq!(message.get("server"), Some(&Value::List(vec!["127.0.0.1".into(), port.into()])));

    let headers = Value::list([header("Set-Cookie", "a=1"), header("Set-Cookie", "b=2")]);
    server.reply(&message, message! { "status": 201, "headers": headers, "content": b"made" }).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
    assert!(
        head.contains("set-cookie: a=1\r\nset-cookie: b=2\r\n") && head.contains("content-length: 4\r\n"),
        "{head}"
    );
    assert_eq!(client.until("made").await, "made");
    assert!(server.nothing_on("http.disconnect").await, "an answered request has no disconnect");
}

#[tokio::test]
async fn a_response_in_parts_arrives_in_parts() {
    let server = Running::start().await;
    let mut client = server.sent(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, message! { "status": 200, "content": b"first ", "more_content": true }).await;
    assert!(client.head().await.contains("transfer-encoding: chunked\r\n"));
    assert_eq!(client.until("first \r\n").await, "6\r\nfirst \r\n");
    server.reply(&message, message! { "content": b"second", "more_content": true }).await;
    assert_eq!(client.until("second\r\n").await, "6\r\nsecond\r\n");
    server.reply(&message, message! { "content": b"" }).await;
    assert_eq!(client.until("0\r\n\r\n").await, "0\r\n\r\n");
    // The connection stays open for another request.
    client.send(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("again")).await;
    assert!(client.until("again").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_large_body_is_sent_over_a_channel_of_its_own() {
    let mut server = Running::start().await;
    let body: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut client = server.sent(&format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    let sending = async {
        client.send(&body).await;
        client
    };
    let receiving = async {
        let message = server.next("http.request").await;
        let mut got = message.bytes("body").unwrap().to_vec();
        let channel = message.text("body_channel").unwrap();
        assert!(channel.starts_with("http.request.body?"), "{channel}");
        loop {
            let part = server.next(channel).await;
            got.extend_from_slice(part.bytes("content").unwrap());
            if part.get("more_content").and_then(Value::as_bool) != Some(true) {
                return (message, got);
            }
        }
    };
    let (mut client, (message, got)) = tokio::join!(sending, receiving);
    assert!(got == body);
    server.reply(&message, ok("stored")).await;
    assert!(client.until("stored").await.starts_with("HTTP/1.1 200"));
    // The server has then sent all its notices.
    server.stop().await;
    assert!(server.nothing_on(message.text("body_channel").unwrap()).await, "the last part ends the body");
}

#[tokio::test]
async fn a_client_that_disconnects_during_its_body_closes_the_channel() {
    let server = Running::start().await;
    let mut client = server.sent("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
    client.send(vec![b'x'; 300_000]).await;
    let message = server.next("http.request").await;
    drop(client);
    let channel = message.text("body_channel").unwrap();
    loop {
        let part = server.next(channel).await;
        if part.get("closed").and_then(Value::as_bool) == Some(true) {
            break;
        }
    }
    assert_eq!(server.next("http.disconnect").await.text("reply_channel"), message.text("reply_channel"));
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_closes_the_channel() {
    let server = Running::start().await;
    let mut client = server.sent("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
    client.send(vec![b'x'; 300_000]).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("enough")).await;
    client.until("enough").await;
    let channel = message.text("body_channel").unwrap();
    while server.next(channel).await.get("closed").and_then(Value::as_bool) != Some(true) {}
    assert!(server.nothing_on("http.disconnect").await, "the request is answered");
}

#[tokio::test]
async fn an_early_disconnect_is_reported_once() {
    let mut server = Running::start().await;
    let client = server.sent("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let message = server.next("http.request").await;
    drop(client);
    let gone = server.next("http.disconnect").await;
    assert_eq!((gone.text("path"), gone.map().len()), (Some("/slow"), 2));
    assert_eq!(gone.text("reply_channel"), message.text("reply_channel"));
    server.reply(&message, ok("too late")).await;
    // One reader passes all responses on, in order, and the shutdown waits for every disconnect notice.
    let mut client = server.sent(GET).await;
    server.reply(&server.next("http.request").await, ok("next")).await;
    client.until("next").await;
    server.stop().await;
    assert!(server.nothing_on("http.disconnect").await);
}

#[tokio::test]
async fn a_full_channel_gets_503_and_an_unanswered_request_504() {
    let server = Running::with(|server| server.response_timeout(Duration::from_millis(300))).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(server.sent(GET).await);
    }
    // Both wait on the channel, which has a capacity of two.
    crate::support::eventually("a full channel", async || {
        (server.layer.channel_statistics("http.request").await.unwrap().messages_pending == 2).then_some(())
    })
    .await;
    assert!(server.sent(GET).await.head().await.starts_with("HTTP/1.1 503 "));
    for client in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 504 "));
        server.next("http.disconnect").await;
    }
}

#[tokio::test]
async fn an_invalid_response_is_502() {
    let server = Running::start().await;
    for nonsense in [message! { "status": "fine" }, message! { "status": 200, "headers": 1 }] {
        let mut client = server.sent(GET).await;
        let message = server.next("http.request").await;
        server.reply(&message, nonsense).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    }
}

#[tokio::test]
async fn content_before_the_head_of_a_response_is_502() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mut counts = Counts::of(&recorder);
    let server = Running::start().await;
    for more in [true, false] {
        let mut client = server.sent(GET).await;
        let message = server.next("http.request").await;
        server.reply(&message, message! { "content": b"stray", "more_content": more }).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{more}: {head}");
        server.next("http.disconnect").await;
    }
    assert_eq!(counts.dropped("malformed"), 2);
}

#[tokio::test]
async fn a_response_without_a_next_part_is_cut_off() {
    let server = Running::with(|server| server.response_timeout(Duration::from_millis(100))).await;
    let mut client = server.sent(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, message! { "status": 200, "content": b"begun", "more_content": true }).await;
    let whole = client.rest().await;
    assert!(whole.contains("begun") && !whole.ends_with("0\r\n\r\n"), "{whole}");
    server.next("http.disconnect").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_delays_no_other() {
    let server = Running::with(|server| server.response_buffer(1_000_000)).await;
    let mut idle = server.sent(GET).await;
    let slow = server.next("http.request").await;
    let part = |status: Option<i64>| {
        let part = message! { "content": vec![b'x'; 500_000], "more_content": true };
        status.map_or(part.clone(), |status| part.with("status", status))
    };
    server.reply(&slow, part(Some(200))).await;
    // The operating system buffers a few MB for the client. The rest is bounded.
    for _ in 0..40 {
        server.reply(&slow, part(None)).await;
    }
    server.next("http.disconnect").await;
    let mut client = server.sent(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("quick")).await;
    assert!(client.until("quick").await.starts_with("HTTP/1.1 200"));
    assert!(!idle.rest().await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn with_http_disabled_only_pages_and_routes_are_served() {
    let routes = axum::Router::new().route("/route", axum::routing::get(|| async { "from a route" }));
    let server =
        Running::with(|server| server.http(false).page("/page", "text/plain", "from a page").routes(routes)).await;
    for (path, answer) in [("/page", "from a page"), ("/route", "from a route")] {
        let mut client = server.sent(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(client.until(answer).await.starts_with("HTTP/1.1 200"));
    }
    assert!(server.sent(GET).await.head().await.starts_with("HTTP/1.1 404 "));
    assert!(server.nothing_on("http.request").await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Running::start().await;
    let request = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut client = server.sent(&(request("/1") + &request("/2"))).await;
    for path in ["/1", "/2"] {
        let message: Message = server.next("http.request").await;
        assert_eq!(message.text("path"), Some(path));
        server.reply(&message, ok(path)).await;
        assert!(client.until(&format!("\r\n\r\n{path}")).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_wrong_content_length_does_not_affect_the_next_response() {
    let server = Running::start().await;
    let mut client = server.sent(&[GET, GET].concat()).await;
    for content in ["café", "next"] {
        let message = server.next("http.request").await;
        let headers = Value::list([header("Content-Length", "4")]);
        let content = content.as_bytes();
        server.reply(&message, message! { "status": 200, "headers": headers, "content": content }).await;
    }
    assert!(client.head().await.contains("content-length: 5\r\n"));
    assert_eq!(client.until("café").await, "café");
    assert!(client.until("next").await.starts_with("HTTP/1.1 200"));
}

/// Returns the first part of a response with these lengths.
fn begun(lengths: &[&str], content: &str) -> Message {
    let headers = Value::list(lengths.iter().map(|length| header("Content-Length", length)));
    message! { "status": 200, "headers": headers, "content": content.as_bytes(), "more_content": true }
}

#[tokio::test]
async fn an_invalid_content_length_of_a_response_in_parts_is_502() {
    let server = Running::start().await;
    for lengths in [&["five"] as &[_], &["-1"], &["5, 5"], &["5", "6"], &["1"]] {
        let mut client = server.sent(GET).await;
        let message = server.next("http.request").await;
        server.reply(&message, begun(lengths, "hello")).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{lengths:?}: {head}");
        server.next("http.disconnect").await;
    }
}

#[tokio::test]
async fn a_response_in_parts_matches_its_content_length_or_is_cut_off() {
    let server = Running::start().await;
    for (rest, wanted) in [("lo", Some("hello")), ("l", None), ("lo, more", None)] {
        let mut client = server.sent(&[GET, GET].concat()).await;
        let message = server.next("http.request").await;
        server.reply(&message, begun(&["5", "5"], "hel")).await;
        let head = client.head().await;
        assert!(head.contains("content-length: 5\r\n") && head.matches("content-length").count() == 1, "{head}");
        server.reply(&message, message! { "content": rest.as_bytes() }).await;
        match wanted {
            Some(content) => {
                assert_eq!(client.until(content).await, content);
                let message = server.next("http.request").await;
                server.reply(&message, ok("next")).await;
                client.until("next").await;
            }
            None => assert_eq!(client.rest().await, "hel", "{rest}"),
        }
    }
}

#[tokio::test]
async fn an_invalid_status_is_502() {
    let server = Running::start().await;
    for status in [0, 99, 100, 101, 103, 199, 600, 999, 1000, -200] {
        let mut client = server.sent(GET).await;
        let message = server.next("http.request").await;
        server.reply(&message, message! { "status": status, "content": b"never" }).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{status}: {head}");
    }
}

#[tokio::test]
async fn a_body_with_too_large_a_content_length_is_413_before_it_is_sent() {
    let server = Running::with(|server| server.max_body_size(1_000_000)).await;
    let request = |length, expect| format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{expect}\r\n");
    for expect in ["", "Expect: 100-continue\r\n"] {
        let head = server.sent(&request(1_000_001, expect)).await.head().await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    }
    assert!(server.nothing_on("http.request").await);
    let mut client = server.sent(&request(5, "Expect: 100-continue\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("hello").await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("fits")).await;
    client.until("fits").await;
}

#[tokio::test]
async fn the_parts_of_a_response_to_head_are_discarded() {
    let server = Running::start().await;
    let mut client = server.sent("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let message = server.next("http.request").await;
    server.reply(&message, message! { "status": 200, "content": b"never", "more_content": true }).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    server.reply(&message, message! { "content": b"sent" }).await;
    // The connection stays open for another request.
    client.send(GET).await;
    let message = server.next("http.request").await;
    server.reply(&message, ok("again")).await;
    assert!(client.until("again").await.starts_with("HTTP/1.1 200"));
    assert!(server.nothing_on("http.disconnect").await, "the client is still connected");
}

/// Returns the request of a client that has its response to HEAD, while the application sends more parts of it.
async fn headed(server: &Running) -> Message {
    let mut client = server.sent("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let message = server.next("http.request").await;
    server.reply(&message, message! { "status": 200, "content": b"never", "more_content": true }).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    message
}

#[tokio::test]
async fn an_endless_response_to_head_ends_with_the_response_timeout() {
    let server = Running::with(|server| server.response_timeout(Duration::from_millis(500))).await;
    let message = headed(&server).await;
    let parts = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            server.reply(&message, message! { "content": b"sent", "more_content": true }).await;
        }
    };
    let disconnect = tokio::select! {
        disconnect = server.next("http.disconnect") => disconnect,
        () = parts => unreachable!("it never returns"),
    };
    assert_eq!(disconnect.text("reply_channel"), message.text("reply_channel"));
}

#[tokio::test]
async fn an_endless_response_to_head_does_not_delay_a_shutdown() {
    let mut server = Running::with(|server| server.drain_timeout(Duration::from_mins(2))).await;
    headed(&server).await;
    server.stop().await;
    server.next("http.disconnect").await;
}

#[tokio::test]
async fn an_endless_response_to_head_ends_with_a_server_that_is_dropped() {
    let server = Running::start().await;
    headed(&server).await;
    server.abort();
    server.next("http.disconnect").await;
}

#[tokio::test]
async fn a_head_request_over_http_1_0_gets_no_content() {
    let server = Running::start().await;
    let mut client = server.sent("HEAD / HTTP/1.0\r\n\r\n").await;
    let message = server.next("http.request").await;
    assert_eq!((message.text("http_version"), message.text("method")), (Some("1.0"), Some("HEAD")));
    server.reply(&message, ok("never sent")).await;
    let whole = within(DEADLINE, "the response", client.rest()).await;
    assert!(whole.starts_with("HTTP/1.0 200 OK\r\n") && whole.ends_with("\r\n\r\n"), "{whole}");
}

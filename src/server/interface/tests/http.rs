//! HTTP requests over a layer with faults.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::message::Value;
use crate::server::hub::tests::{Fault, faulty};
use crate::server::interface::tests::*;

#[tokio::test]
async fn a_request_that_may_have_arrived_closes_its_body_channel() {
    let layer = faulty();
    layer.set("http.request", Some(Fault::FailsAfterSend));
    let server = Running::on(layer, |server| server).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
    let request = server.next("http.request").await;
    let rest = server.next(request.text("body_channel").unwrap()).await;
    assert_eq!(rest.get("closed").and_then(Value::as_bool), Some(true));
    server.next("http.disconnect").await;
    let mut head = [0; 12];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 500");
}

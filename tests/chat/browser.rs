//! The chat in a browser: Chromium without a window, driven over its DevTools protocol.

use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::instance::Instance;
use crate::support::{DEADLINE, Proxy, RedisServer, eventually, within};

/// A browser, killed when it is dropped.
struct Browser {
    devtools: Mutex<DevTools>,
    _process: Child,
    _profile: TempDir,
}

struct DevTools {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last: u64,
}

impl Browser {
    async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "--disable-background-networking", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium is installed");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the browser prints the address of its DevTools");
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    return url.to_owned();
                }
            }
        };
        let url = within(DEADLINE * 2, "the browser", listening).await;
        // The rest of the output is read, so that the pipe never fills.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = within(DEADLINE, "DevTools", connect_async(url)).await.unwrap();
        Self { devtools: Mutex::new(DevTools { socket, last: 0 }), _process: process, _profile: profile }
    }

    /// Calls a method of the protocol and returns its result.
    async fn call(&self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        let mut devtools = self.devtools.lock().await;
        devtools.last += 1;
        let id = devtools.last;
        let mut call = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            call["sessionId"] = session.into();
        }
        devtools.socket.send(Frame::text(call.to_string())).await.unwrap();
        let answer = async {
            loop {
                let Frame::Text(text) = devtools.socket.next().await.unwrap().unwrap() else { continue };
                let answer: Value = serde_json::from_str(&text).unwrap();
                if answer["id"] == id {
                    return answer;
                }
            }
        };
        let answer = within(DEADLINE, method, answer).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    async fn open(&self, url: &str, scheme: &str) -> Page<'_> {
        let target = self.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await;
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", target).await;
        let page = Page { browser: self, session: attached["sessionId"].as_str().unwrap().to_owned() };
        let size = json!({ "width": 900, "height": 640, "deviceScaleFactor": 1, "mobile": false });
        page.call("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        page.call("Emulation.setEmulatedMedia", media).await;
        page.call("Page.navigate", json!({ "url": url })).await;
        page
    }
}

struct Page<'b> {
    browser: &'b Browser,
    session: String,
}

impl Page<'_> {
    async fn call(&self, method: &str, parameters: Value) -> Value {
        self.browser.call(Some(&self.session), method, parameters).await
    }

    async fn evaluate(&self, script: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({ "expression": script, "returnByValue": true })).await;
        answer["result"]["value"].clone()
    }

    /// Waits until a script returns true.
    async fn sees(&self, what: &str, script: &str) {
        eventually(what, async || (self.evaluate(script).await == json!(true)).then_some(())).await;
    }

    async fn sees_line(&self, text: &str) {
        let script =
            format!("[...document.querySelectorAll('#log li')].some((line) => line.textContent.includes({text:?}))");
        self.sees(text, &script).await;
    }

    async fn sees_state(&self, state: &str) {
        self.sees(state, &format!("document.querySelector('#state')?.dataset.state === {state:?}")).await;
    }

    /// Waits until the page shows that its server is cut off from others, or no longer shows it.
    async fn sees_alone(&self, alone: bool) {
        let what = if alone { "that the server is alone" } else { "that the server is not alone" };
        // A page in the background does not ask its server.
        self.call("Page.bringToFront", json!({})).await;
        self.sees(what, &format!("document.querySelector('#alone').checkVisibility() === {alone}")).await;
    }

    async fn clicks(&self, selector: &str) {
        self.evaluate(&format!("document.querySelector({selector:?}).click()")).await;
    }

    /// Focuses an element and types into it, as a keyboard does.
    async fn types(&self, selector: &str, text: &str) {
        self.evaluate(&format!("document.querySelector({selector:?}).focus()")).await;
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    async fn presses_enter(&self) {
        for kind in ["keyDown", "keyUp"] {
            let key =
                json!({ "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" });
            self.call("Input.dispatchKeyEvent", key).await;
        }
    }

    async fn enters(&self, name: &str, room: &str) {
        self.sees("the form", "document.readyState === 'complete' && !!document.querySelector('#join')").await;
        self.evaluate("document.querySelector('#name').value = ''; document.querySelector('#room').value = ''").await;
        self.types("#name", name).await;
        self.types("#room", room).await;
        self.clicks("#join button").await;
        self.sees_state("online").await;
    }

    async fn says(&self, text: &str) {
        self.types("#text", text).await;
        self.presses_enter().await;
    }

    /// Saves a screenshot of the page in `target/screenshots`.
    async fn save_screenshot(&self, name: &str) {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let image = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name).with_extension("png"), image).unwrap();
    }

    /// Waits until the background is bright, or dark.
    async fn sees_background(&self, bright: bool) {
        // Without a style sheet the background is transparent, which a fourth number shows.
        let script = format!(
            "(() => {{ const parts = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number); \
             return parts.length === 3 && Math.max(...parts) > 128 === {bright}; }})()"
        );
        self.sees(if bright { "a bright page" } else { "a dark page" }, &script).await;
    }
}

#[tokio::test]
async fn two_people_talk_over_two_instances_and_one_loses_and_regains_the_connection() {
    let redis = RedisServer::start();
    let options = ["--redis", &redis.url()];
    let (first, second) = (Instance::start(&options).await, Instance::start(&options).await);
    let network = Proxy::before(&format!("redis://{}/0", second.address)).await;
    let through = network.url().replace("redis://", "http://").replace("/0", "/");
    let browser = Browser::start().await;
    let ada = browser.open(&format!("http://{}/", first.address), "light").await;
    let bob = browser.open(&through, "dark").await;
    ada.enters("Ada", "lobby").await;
    bob.enters("Bob", "lobby").await;
    ada.sees_line("Bob joined").await;

    ada.says("hello from the first").await;
    bob.sees_line("hello from the first").await;
    bob.says("hello from the second").await;
    ada.sees_line("hello from the second").await;
    ada.sees_background(true).await;
    bob.sees_background(false).await;
    ada.save_screenshot("chat-light").await;
    bob.save_screenshot("chat-dark").await;

    network.refuse();
    bob.sees_state("lost").await;
    bob.save_screenshot("chat-lost").await;
    ada.says("are you there?").await;
    network.admit();
    bob.clicks("#retry").await;
    bob.sees_state("online").await;
    bob.says("back again").await;
    ada.sees_line("back again").await;
    ada.save_screenshot("chat-back").await;
}

#[tokio::test]
async fn the_page_shows_an_outage_of_redis_and_its_server_loses_no_message() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    let variables = [("REDIS_ENABLED", "true"), ("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_URL", &*url)];
    let demo = ["demo", "--port", "0"];
    let (first, second) = (Instance::run(&demo, &variables).await, Instance::run(&demo, &variables).await);
    let browser = Browser::start().await;
    let ada = browser.open(&format!("http://{}/", first.address), "light").await;
    let ann = browser.open(&format!("http://{}/", first.address), "dark").await;
    let bob = browser.open(&format!("http://{}/", second.address), "light").await;
    for (page, name) in [(&ada, "Ada"), (&ann, "Ann"), (&bob, "Bob")] {
        page.enters(name, "lobby").await;
    }
    ada.sees_line("Bob joined").await;
    ada.says("hello everybody").await;
    bob.sees_line("hello everybody").await;
    ada.sees_alone(false).await;

    // Redis stops while Ada types.
    ada.types("#text", "half a sen").await;
    redis.stop();
    for page in [&ada, &ann, &bob] {
        page.sees_alone(true).await;
    }
    ada.types("#text", "tence").await;
    ada.presses_enter().await;
    ann.sees_line("half a sentence").await;
    for number in 0..20 {
        ann.says(&format!("number {number} of Ann")).await;
        ada.says(&format!("number {number} of Ada")).await;
    }
    for page in [&ada, &ann] {
        for number in 0..20 {
            page.sees_line(&format!("number {number} of Ann")).await;
            page.sees_line(&format!("number {number} of Ada")).await;
        }
        page.sees_state("online").await;
    }
    ada.save_screenshot("chat-alone-light").await;
    ann.save_screenshot("chat-alone-dark").await;

    redis.start_again();
    for page in [&ada, &ann, &bob] {
        page.sees_alone(false).await;
    }
    bob.says("there you are").await;
    for page in [&ada, &ann] {
        page.sees_line("there you are").await;
    }
    ada.says("here I am").await;
    bob.sees_line("here I am").await;
    bob.save_screenshot("chat-together-again").await;
}

#[tokio::test]
async fn the_status_page_follows_the_colour_scheme() {
    let instance = Instance::start(&["--status"]).await;
    let browser = Browser::start().await;
    let url = format!("http://{}/status", instance.address);
    for (scheme, bright) in [("light", true), ("dark", false)] {
        let page = browser.open(&url, scheme).await;
        // The server asks the layer when the page is requested, and the page reloads itself.
        page.sees("the channels", "document.querySelectorAll('tbody th').length > 12").await;
        page.sees_background(bright).await;
        page.save_screenshot(&format!("status-{scheme}")).await;
    }
}

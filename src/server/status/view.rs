//! The status page as HTML, without a script. It reloads every 2 s.

use std::fmt::Write as _;
use std::time::Duration;

use super::collector::{LayerHealth, Shard, Snapshot};
use super::history::SECONDS;
use crate::health::BlockingConnections;
use crate::server::asgi::connections::QueueDepths;
use crate::server::counters::{Count, Totals};

const WIDTH: u64 = 240;
const HEIGHT: u64 = 48;

pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut page = String::with_capacity(16 * 1024);
    // Writing to a string does not fail.
    let _ = write(&mut page, snapshot);
    page
}

fn write(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let (word, kind) = state(snapshot);
    begin(page, word, kind, &format!("up {}", span(snapshot.uptime)))?;
    cards(page, snapshot)?;
    page.push_str("<div class=\"tables\">\n");
    channels(page, snapshot)?;
    outcomes(page, &snapshot.totals)?;
    queues(page, snapshot.queues)?;
    shards(page, snapshot)?;
    connections(page, &snapshot.layer.connections)?;
    page.push_str(END);
    Ok(())
}

/// Writes the page up to the cards: the state in a word, and a note beside it.
pub(crate) fn begin(page: &mut String, word: &str, kind: &str, note: &str) -> std::fmt::Result {
    write!(
        page,
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="2">
<title>{word} · channel-layer</title>
<link rel="stylesheet" href="/status.css">
</head>
<body>
<header>
<h1>channel-layer <small>{version}</small></h1>
<p class="state {kind}">{word}</p>
<p class="muted">{note}</p>
</header>
<main>
"#,
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The page after the tables.
pub(crate) const END: &str = "</div>\n</main>\n</body>\n</html>\n";

fn state(snapshot: &Snapshot) -> (&'static str, &'static str) {
    if snapshot.shutting_down {
        return ("shutting down", "warn");
    }
    match snapshot.layer.health {
        LayerHealth::Unknown => ("serving", "good"),
        LayerHealth::Answers(_) if snapshot.shards.values().any(|shard| !shard.up) => ("a shard is down", "warn"),
        LayerHealth::Answers(_) => ("healthy", "good"),
        LayerHealth::Fails => ("the layer does not answer", "bad"),
    }
}

fn cards(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let history = &snapshot.history;
    let frames = |totals: &Totals| totals.of(Count::FramesIn);
    let replies = |totals: &Totals| totals.of(Count::RepliesOut);
    page.push_str("<section class=\"cards\" aria-label=\"Rates\">\n");
    let opened = format!("{}/s opening", rate(history.rate(Totals::handshakes)));
    card(page, "Sockets", &thousands(snapshot.connections as u64), &opened, &history.connections())?;
    let total = |count| format!("{} in total", thousands(count));
    card(
        page,
        "Frames in",
        &format!("{}/s", rate(history.rate(frames))),
        &total(frames(&snapshot.totals)),
        &history.growth(frames),
    )?;
    card(
        page,
        "Replies out",
        &format!("{}/s", rate(history.rate(replies))),
        &total(replies(&snapshot.totals)),
        &history.growth(replies),
    )?;
    card(
        page,
        "HTTP answers",
        &format!("{}/s", rate(history.rate(Totals::responses))),
        &format!("{} in progress", thousands(snapshot.requests as u64)),
        &history.growth(Totals::responses),
    )?;
    page.push_str("</section>\n");
    Ok(())
}

fn card(page: &mut String, title: &str, value: &str, note: &str, points: &[u64]) -> std::fmt::Result {
    writeln!(page, r#"<article><h2>{title}</h2><p class="value">{value}</p><p class="muted">{note}</p>"#)?;
    let highest = points.iter().copied().max().unwrap_or(0);
    writeln!(
        page,
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{title}, the last two minutes, at most {highest}"><path d="{}"/></svg></article>"#,
        area(points, highest.max(1))
    )
}

/// Returns the SVG path of an area below the points; the last point is at the right edge.
fn area(points: &[u64], highest: u64) -> String {
    let mut path = String::new();
    let step = |back: usize| WIDTH.saturating_sub(back as u64 * WIDTH / (SECONDS as u64 - 1));
    let last = points.len().saturating_sub(1);
    let left = step(last);
    let _ = write!(path, "M{left} {HEIGHT}");
    for (at, point) in points.iter().enumerate() {
        // Leaves one unit above the highest point for the width of the line.
        let y = HEIGHT - point * (HEIGHT - 2) / highest;
        let _ = write!(path, "L{} {y}", step(last - at));
    }
    let _ = write!(path, "L{WIDTH} {HEIGHT}Z");
    path
}

fn channels(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    page.push_str("<section class=\"wide\"><h2>Channels</h2>");
    match snapshot.layer.health {
        LayerHealth::Answers(each) => {
            writeln!(page, r#"<p class="muted">The layer answers within {}.</p>"#, span(each))?;
        }
        LayerHealth::Fails => page.push_str("<p class=\"bad\">The layer does not answer.</p>\n"),
        LayerHealth::Unknown => page.push_str("<p class=\"muted\">Querying the layer…</p>\n"),
    }
    page.push_str(
        "<table><thead><tr><th>channel<th>waiting<th>oldest for<th>sent<th>refused (full)</tr></thead><tbody>\n",
    );
    for (name, statistics) in &snapshot.layer.channels {
        let attention = if statistics.messages_max_age > Duration::from_secs(1) { " class=\"warn\"" } else { "" };
        writeln!(
            page,
            "<tr{attention}><th>{name}<td>{}<td>{}<td>{}<td>{}</tr>",
            thousands(statistics.messages_pending),
            if statistics.messages_pending > 0 { span(statistics.messages_max_age) } else { "–".to_owned() },
            thousands(statistics.messages_count),
            thousands(statistics.channel_full_count),
        )?;
    }
    page.push_str("</tbody></table></section>\n");
    Ok(())
}

fn outcomes(page: &mut String, totals: &Totals) -> std::fmt::Result {
    for (title, rows) in [
        (
            "Handshakes",
            [
                ("accepted", Count::Accepted),
                ("refused by the application", Count::Refused),
                ("not answered in time", Count::TimedOut),
                ("refused by the server", Count::Rejected),
            ],
        ),
        (
            "HTTP answers",
            [
                ("2xx", Count::Succeeded),
                ("3xx", Count::Redirected),
                ("4xx", Count::ClientError),
                ("5xx", Count::ServerError),
            ],
        ),
    ] {
        writeln!(page, "<section><h2>{title}</h2><table><tbody>")?;
        for (name, count) in rows {
            writeln!(page, "<tr><th>{name}<td>{}</tr>", thousands(totals.of(count)))?;
        }
        page.push_str("</tbody></table></section>\n");
    }
    Ok(())
}

pub(crate) fn queues(page: &mut String, queues: QueueDepths) -> std::fmt::Result {
    page.push_str("<section><h2>Waiting for sockets</h2><table><tbody>\n");
    for (name, value) in [("messages", queues.messages), ("bytes", queues.bytes), ("longest queue", queues.longest)] {
        writeln!(page, "<tr><th>{name}<td>{}</tr>", thousands(value as u64))?;
    }
    page.push_str("</tbody></table></section>\n");
    Ok(())
}

fn shards(page: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    page.push_str("<section><h2>Shards</h2>");
    if snapshot.shards.is_empty() {
        page.push_str("<p class=\"muted\">No outage since the start.</p></section>\n");
        return Ok(());
    }
    page.push_str(
        "<table><thead><tr><th>shard<th>state<th>outages<th>data losses<th>interrupted reads</tr></thead><tbody>\n",
    );
    for (number, shard) in &snapshot.shards {
        let Shard { up, since, outages, data_losses, reads_interrupted } = shard;
        let (word, kind) = if *up { ("up", "good") } else { ("down", "bad") };
        let since = span(since.elapsed());
        writeln!(
            page,
            "<tr><th>{number}<td class=\"{kind}\">{word} for {since}<td>{outages}<td>{data_losses}<td>{reads_interrupted}</tr>"
        )?;
    }
    page.push_str("</tbody></table></section>\n");
    Ok(())
}

/// Writes the connections for blocking reads. A layer without such reads has no section.
fn connections(page: &mut String, servers: &[(String, BlockingConnections)]) -> std::fmt::Result {
    if servers.is_empty() {
        return Ok(());
    }
    page.push_str("<section><h2>Connections for reads</h2>");
    page.push_str("<table><thead><tr><th>server<th>in use<th>waiting<th>limit</tr></thead><tbody>\n");
    for (server, BlockingConnections { used, waiting, limit }) in servers {
        let attention = if *waiting > 0 { " class=\"warn\"" } else { "" };
        writeln!(page, "<tr{attention}><th>{server}<td>{used}<td>{waiting}<td>{limit}</tr>")?;
    }
    page.push_str("</tbody></table></section>\n");
    Ok(())
}

/// Formats a duration in its largest unit and the next smaller one.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.as_millis() == 0 => format!("{} µs", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn rate(rate: f64) -> String {
    if rate < 10.0 && rate > 0.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Formats a number with narrow spaces between groups of digits.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_formatted_for_readers() {
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!([thousands(0), thousands(999), thousands(1_000)], ["0", "999", "1\u{202f}000"]);
        assert_eq!([rate(0.0), rate(0.34), rate(12.6)], ["0", "0.3", "13"]);
        for (milliseconds, text) in
            [(5, "5 ms"), (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(span(Duration::from_micros(7)), "7 µs");
    }

    #[test]
    fn an_area_ends_at_the_right_edge_and_stays_inside() {
        assert_eq!(area(&[0, 5, 10], 10), "M236 48L236 48L238 25L240 2L240 48Z");
        assert_eq!(area(&[], 1), "M240 48L240 48Z");
        assert!(area(&[1; SECONDS], 1).starts_with("M0 48L0 2"));
    }
}

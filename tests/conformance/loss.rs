//! No message is lost silently: undelivered messages are counted under a reason.

use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;

use super::backend::{Kind, Options, Started};
use super::tools::{numbered, numbers, send_numbers, take_many};
use crate::support::Counts;

/// Runs `test` and all tasks of the layer on a separate thread, so that nothing else is counted.
fn counted(kind: &Kind, options: Options, test: impl AsyncFnOnce(&Started, &mut Counts) + Send) {
    let run = || {
        let recorder = DebuggingRecorder::new();
        let _local = metrics::set_default_local_recorder(&recorder);
        kind.run_on_one_thread(async {
            let backend = kind.start(options).await;
            test(&backend, &mut Counts::of(&recorder)).await;
        });
    };
    if let Err(panic) = thread::scope(|scope| scope.spawn(run).join()) {
        resume_unwind(panic);
    }
}

/// The channels stay in use, so that their lists do not expire as a whole.
pub async fn expired_messages_are_counted(kind: &Kind) {
    const STEP: Duration = Duration::from_millis(1200);
    let options = Options { expiry: Duration::from_secs(2), ..Options::default() };
    counted(kind, options, async |backend, counts| {
        let layer = backend.layer();
        let channels = ["loss", "loss!a", "loss?a"];
        for channel in channels {
            send_numbers(&layer, channel, [0, 1]).await;
        }
        backend.pass(STEP).await;
        // Enough messages for each server to keep some of each channel.
        for channel in channels {
            send_numbers(&layer, channel, 2..8).await;
        }
        backend.pass(STEP).await;
        for source in ["loss", "loss!", "loss?a"] {
            let mut left = numbers(&take_many(&layer, &[source], 6).await);
            left.sort_unstable();
            assert_eq!(left, [2, 3, 4, 5, 6, 7], "what is left on {source}");
        }
        assert_eq!((counts.dropped("expired"), counts.dropped("full")), (6, 0));
    });
}

pub async fn a_group_message_for_a_full_member_is_counted(kind: &Kind) {
    counted(kind, Options { capacity: 3, ..Options::default() }, async |backend, counts| {
        let layer = backend.layer();
        for member in ["full!a", "other!a", "other?a"] {
            layer.group_add("loss", member).await.unwrap();
        }
        send_numbers(&layer, "full!a", 0..3).await;
        layer.group_send("loss", numbered(3)).await.unwrap();
        assert_eq!(counts.dropped("full"), 1);
        assert!(layer.send("full!a", numbered(4)).await.is_err());
        assert_eq!(counts.dropped("full"), 1, "a refused send is reported to its caller and not counted");
    });
}

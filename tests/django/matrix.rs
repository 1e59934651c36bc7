//! Sends a message with every kind of value from Python to Rust and from Rust to Python, by every route, for each
//! package, serializer, encryption, prefix and number of hosts.

use super::routes::Wire;
use super::site::Site;

/// Generates nested modules for all combinations of the dimensions. Each value of a dimension is a method of [`Site`].
/// The innermost modules contain one test for each direction.
macro_rules! matrix {
    ($site:expr, { [$($value:ident)+] $($rest:tt)* }) => {
        matrix!(@each $site, { $($rest)* }, $($value)+);
    };
    (@each $site:expr, $rest:tt, $($value:ident)+) => {
        $(mod $value {
            use super::*;

            matrix!($site.$value(), $rest);
        })+
    };
    ($site:expr, {}) => {
        #[tokio::test]
        async fn from_python_to_rust() {
            carries_from_python_to_rust($site).await;
        }

        #[tokio::test]
        async fn from_rust_to_python() {
            carries_from_rust_to_python($site).await;
        }
    };
}

mod asgi_redis {
    use super::*;

    matrix!(Site::asgi_redis(), {
        [plain fernet rotated] [default_prefix other_prefix] [on_one_host on_two_hosts on_four_hosts]
    });
}

mod channels_redis {
    use super::*;

    matrix!(Site::channels_redis(), {
        [message_pack json] [plain fernet rotated] [default_prefix other_prefix] [on_one_host on_two_hosts on_four_hosts]
    });
}

mod pubsub {
    use super::*;

    matrix!(Site::pubsub(), {
        [message_pack json] [plain fernet rotated] [default_prefix other_prefix] [on_one_host on_two_hosts on_four_hosts]
    });
}

async fn carries_from_python_to_rust(site: Site) {
    let (python, rust) = (site.python().await, site.rust().await);
    Wire { site: &site, from: &python, to: &rust }.carries(&site.contents()).await;
}

async fn carries_from_rust_to_python(site: Site) {
    let (python, rust) = (site.python().await, site.rust().await);
    Wire { site: &site, from: &rust, to: &python }.carries(&site.contents()).await;
}

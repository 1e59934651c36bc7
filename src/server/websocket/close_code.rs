//! Close codes of RFC 6455 and its registry that this server uses.

pub(crate) const NORMAL: u16 = 1000;
pub(crate) const GOING_AWAY: u16 = 1001;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
/// Never sent: the close frame had no code.
pub(crate) const NONE: u16 = 1005;
/// Never sent: there was no close frame.
pub(crate) const ABNORMAL: u16 = 1006;
pub(crate) const INVALID_TEXT: u16 = 1007;
pub(crate) const POLICY: u16 = 1008;
pub(crate) const TOO_LARGE: u16 = 1009;
pub(crate) const INTERNAL_ERROR: u16 = 1011;
pub(crate) const SERVICE_RESTART: u16 = 1012;
pub(crate) const TRY_AGAIN_LATER: u16 = 1013;
pub(crate) const BAD_GATEWAY: u16 = 1014;

/// Returns `code`, or 1011 if `code` must not be sent in a close frame.
pub(crate) fn sendable(code: u16) -> u16 {
    if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) { code } else { INTERNAL_ERROR }
}

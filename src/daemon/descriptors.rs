//! Open files: as many as the system lets us have, and the sessions that fit into them. Never lets clients use up what the
//! spool, the logs and the lists need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For whatever is open beside connections: listeners, logs, lists, messages that are being written.
const REST: usize = 64;

/// With fewer sessions nobody is served.
const FEWEST: usize = 4;

/// Raises the limit of open files as far as it goes, and tells how many of the `wanted` sessions fit into it beside as
/// many `connections` to the host. Warns where they are fewer.
pub fn sessions(wanted: usize, connections: usize) -> usize {
    let limit = raise();
    let fitting = fitting(limit, wanted, connections);
    if fitting < wanted {
        tracing::warn!(
            "serving only {fitting} clients at once, not {wanted}: at most {limit} files may be open\n\
             hint: raise the limit of open files (`ulimit -n`, or LimitNOFILE= in the unit), or lower `listen.max_sessions`"
        );
    }
    fitting
}

fn fitting(limit: usize, wanted: usize, connections: usize) -> usize {
    limit.saturating_sub(connections.saturating_add(REST)).max(FEWEST).min(wanted)
}

/// The limit that holds afterwards.
fn raise() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is not allowed the old one holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_kept_free() {
        for (limit, wanted, connections, expected) in [
            (usize::MAX, 512, 20, 512),
            (512 + 20 + 64, 512, 20, 512),
            (512 + 20 + 63, 512, 20, 511),
            (64, 512, 20, 4),
            (0, 512, usize::MAX, 4),
            (64, 1, 20, 1),
        ] {
            assert_eq!(fitting(limit, wanted, connections), expected, "{limit} {wanted} {connections}");
        }
    }
}

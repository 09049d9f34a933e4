//! The table by hand: every variant with its row. A new variant does not compile until it is listed.

use super::*;
use crate::outcome::{NoLeader, Outsider, QuotaName};
use crate::raft::Refusal;
use crate::services::digests::Difference;
use crate::types::{Identity, Index, NodeId};
use std::fmt::Debug;
use uuid::Uuid;

/// Rows of `pattern => sample, (status, prefix, exit code)`: checks that each sample has its row, matches its own
/// pattern and no earlier one, and that the patterns cover the type.
macro_rules! check_rows {
    ($type:ty: $($pattern:pat => $sample:expr, $codes:expr;)*) => {{
        fn row_of(why: &$type) -> &'static str {
            match why { $($pattern => stringify!($pattern),)* }
        }
        let rows: Vec<($type, &str, (u16, &str, u8))> = vec![$(($sample, stringify!($pattern), $codes)),*];
        for (why, pattern, codes) in &rows {
            assert_eq!(row_of(why), *pattern);
            check(why, *codes);
        }
        let samples: Vec<$type> = rows.into_iter().map(|(why, ..)| why).collect();
        samples
    }};
}

fn check(why: &(impl Coded + Debug), (status, resp, exit): (u16, &'static str, u8)) {
    assert_eq!(why.codes(), Codes { status, resp, exit }, "{why:?}");
    assert_eq!(exit_of(status), exit, "{why:?}");
    assert!(!why.to_string().is_empty(), "{why:?}");
}

const UNAVAILABLE: (u16, &str, u8) = (503, "CLUSTERDOWN", 4);
const UNKNOWN: (u16, &str, u8) = (504, "UNKNOWN", 5);
const CONFLICT: (u16, &str, u8) = (409, "ERR", 1);
const FULL: (u16, &str, u8) = (507, "OOM", 1);

fn no_quorum() -> NoLeader {
    NoLeader::NoQuorum { reachable: 2, voters: 5, needed: 3 }
}

fn node_3() -> Identity {
    Identity { id: NodeId(3), uuid: Uuid::nil() }
}

fn loses_quorum() -> Refusal {
    Refusal::Unsafe { voters: 4, live: 2, needed: 3 }
}

fn reasons() -> Vec<Reason> {
    let difference = || Difference { index: Index(7), parts: vec![2] };
    let removed = NoLeader::Outsider(Outsider::Removed, node_3());
    let only = NoLeader::OnlyVoterOffline(NodeId(4));
    check_rows! { Reason:
        Reason::NoLeader(NoLeader::Outsider(..)) => Reason::NoLeader(removed), UNAVAILABLE;
        Reason::NoLeader(NoLeader::NoQuorum { .. }) => Reason::NoLeader(no_quorum()), UNAVAILABLE;
        Reason::NoLeader(NoLeader::OnlyVoterOffline(_)) => Reason::NoLeader(only), UNAVAILABLE;
        Reason::NoLeader(NoLeader::NotInTime) => Reason::NoLeader(NoLeader::NotInTime), UNAVAILABLE;
        Reason::Raft(Refusal::NotLeader) => Reason::Raft(Refusal::NotLeader), UNAVAILABLE;
        Reason::Raft(Refusal::LeadershipTransfer) => Reason::Raft(Refusal::LeadershipTransfer), UNAVAILABLE;
        Reason::Raft(Refusal::Busy) => Reason::Raft(Refusal::Busy), UNAVAILABLE;
        Reason::Raft(Refusal::DiskLow) => Reason::Raft(Refusal::DiskLow), UNAVAILABLE;
        Reason::Raft(Refusal::TermNotCommitted) => Reason::Raft(Refusal::TermNotCommitted), UNAVAILABLE;
        Reason::Raft(Refusal::ChangeInFlight) => Reason::Raft(Refusal::ChangeInFlight), UNAVAILABLE;
        Reason::Raft(Refusal::NotCaughtUp) => Reason::Raft(Refusal::NotCaughtUp), CONFLICT;
        Reason::Raft(Refusal::NotAMember(_)) => Reason::Raft(Refusal::NotAMember(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::VoterAlready(_)) => Reason::Raft(Refusal::VoterAlready(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::LearnerAlready(_)) => Reason::Raft(Refusal::LearnerAlready(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::MemberAlready(_)) => Reason::Raft(Refusal::MemberAlready(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::NumberTaken(_)) => Reason::Raft(Refusal::NumberTaken(node_3())), CONFLICT;
        Reason::Raft(Refusal::OnlyVoter(_)) => Reason::Raft(Refusal::OnlyVoter(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::Unsafe { .. }) => Reason::Raft(loses_quorum()), CONFLICT;
        Reason::Raft(Refusal::LearnerCannotLead(_)) => Reason::Raft(Refusal::LearnerCannotLead(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::Silent(_)) => Reason::Raft(Refusal::Silent(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::Stops(_)) => Reason::Raft(Refusal::Stops(NodeId(4))), CONFLICT;
        Reason::Raft(Refusal::NoOtherVoter) => Reason::Raft(Refusal::NoOtherVoter), CONFLICT;
        Reason::Gateway(_) => Reason::Gateway(NodeId(4)), CONFLICT;
        Reason::Witness(_) => Reason::Witness(NodeId(4)), CONFLICT;
        Reason::TooFewFullVoters => Reason::TooFewFullVoters, CONFLICT;
        Reason::NoData { .. } => Reason::NoData { witness: NodeId(3), ask: Some(NodeId(1)) }, UNAVAILABLE;
        Reason::OtherLeads(_) => Reason::OtherLeads(NodeId(4)), UNAVAILABLE;
        Reason::NotTakenOver(_) => Reason::NotTakenOver(NodeId(4)), UNAVAILABLE;
        Reason::Stopping => Reason::Stopping, UNAVAILABLE;
        Reason::TooLarge { .. } => Reason::TooLarge { bytes: 9 << 20 }, (413, "ERR", 1);
        Reason::Memory => Reason::Memory, (503, "BUSY", 4);
        Reason::Quota { .. } => Reason::Quota { quota: QuotaName::Jobs, used: 10, most: 10 }, FULL;
        Reason::TriggersBeyondQuota { .. } => Reason::TriggersBeyondQuota { most: 1 << 20 }, FULL;
        Reason::Corrupt(_) => Reason::Corrupt(difference()), UNAVAILABLE;
        Reason::LeaderCorrupt(_) => Reason::LeaderCorrupt(difference()), UNAVAILABLE;
        Reason::Split(_) => Reason::Split(difference()), UNAVAILABLE;
        Reason::DatabaseBusy => Reason::DatabaseBusy, UNAVAILABLE;
        Reason::NoDatabase => Reason::NoDatabase, UNAVAILABLE;
        Reason::TooManyReads => Reason::TooManyReads, UNAVAILABLE;
        Reason::StaleRead { .. } => Reason::StaleRead { age_ms: Some(70) }, UNAVAILABLE;
        Reason::Unreadable(_) => Reason::Unreadable("disk I/O error".to_string()), UNAVAILABLE;
        Reason::NoBackup(_) => Reason::NoBackup("disk I/O error".to_string()), UNAVAILABLE;
        Reason::NotPrepared => Reason::NotPrepared, UNAVAILABLE;
        Reason::NothingChanged(_) => Reason::NothingChanged(UnknownReason::LeaderLost), UNAVAILABLE;
    }
}

fn doubts() -> Vec<UnknownReason> {
    check_rows! { UnknownReason:
        UnknownReason::NoAnswer => UnknownReason::NoAnswer, UNKNOWN;
        UnknownReason::Stopped => UnknownReason::Stopped, UNKNOWN;
        UnknownReason::TooLate(_) => UnknownReason::TooLate(no_quorum()), UNKNOWN;
        UnknownReason::LogReplaced => UnknownReason::LogReplaced, UNKNOWN;
        UnknownReason::LeaderLost => UnknownReason::LeaderLost, UNKNOWN;
        UnknownReason::StrangeAnswer => UnknownReason::StrangeAnswer, UNKNOWN;
        UnknownReason::NoLeaderNamed => UnknownReason::NoLeaderNamed, UNKNOWN;
    }
}

#[test]
fn every_reason_of_a_node_has_its_row_and_crosses_the_wire() {
    for reason in reasons() {
        let bytes = postcard::to_stdvec(&reason).unwrap();
        assert_eq!(postcard::from_bytes::<Reason>(&bytes), Ok(reason));
    }
    for doubt in doubts() {
        let bytes = postcard::to_stdvec(&doubt).unwrap();
        assert_eq!(postcard::from_bytes::<UnknownReason>(&bytes), Ok(doubt));
    }
}

#[test]
fn every_refusal_of_a_service_has_its_row() {
    let of = |status| (status, "ERR", 1);
    check_rows! { OpError:
        OpError::TooLarge => OpError::TooLarge, of(413);
        OpError::ReplyTooLarge => OpError::ReplyTooLarge, of(413);
        OpError::NotAnInteger => OpError::NotAnInteger, of(409);
        OpError::Overflow => OpError::Overflow, of(409);
        OpError::NoTime => OpError::NoTime, of(409);
        OpError::EntrySteps => OpError::EntrySteps, of(409);
        OpError::ReadSteps => OpError::ReadSteps, of(409);
        OpError::NotAFloat => OpError::NotAFloat, of(409);
        OpError::FloatOverflow => OpError::FloatOverflow, of(409);
        OpError::NoSuchKey => OpError::NoSuchKey, of(409);
        OpError::EntryGrowth => OpError::EntryGrowth, of(409);
        OpError::Other(_) => OpError::Other("ERR of old".to_string()), of(409);
    };
    use jobs::Refusal as Job;
    let no_runtime = |there| Job::NoRuntime { wanted: "c".to_string(), there, trouble: None };
    check_rows! { Job:
        Job::Full => Job::Full, UNAVAILABLE;
        Job::Malformed(_) => Job::Malformed("no file".to_string()), of(400);
        Job::NoSuchJob(_) => Job::NoSuchJob(7), of(404);
        Job::HasEnded(_) => Job::HasEnded(7), of(409);
        Job::NotYours(_) => Job::NotYours(7), of(409);
        Job::NoRuntime { .. } => no_runtime(vec!["java".to_string()]), of(400);
    };
    check(&no_runtime(Vec::new()), UNAVAILABLE);
    use chat::Refusal as Chat;
    let text = || "why".to_string();
    check_rows! { Chat:
        Chat::BadName(_) => Chat::BadName(text()), of(400);
        Chat::BadText(_) => Chat::BadText(text()), of(400);
        Chat::Malformed(_) => Chat::Malformed(text()), of(400);
        Chat::Yourself => Chat::Yourself, of(400);
        Chat::NotARoom => Chat::NotARoom, of(400);
        Chat::NotLoggedIn => Chat::NotLoggedIn, of(401);
        Chat::WrongLogIn => Chat::WrongLogIn, of(401);
        Chat::NotMember => Chat::NotMember, of(403);
        Chat::NotYours => Chat::NotYours, of(403);
        Chat::NoSuchAccount => Chat::NoSuchAccount, of(404);
        Chat::NoSuchRoom => Chat::NoSuchRoom, of(404);
        Chat::NoSuchConversation => Chat::NoSuchConversation, of(404);
        Chat::NoSuchMessage => Chat::NoSuchMessage, of(404);
        Chat::NameTaken => Chat::NameTaken, of(409);
        Chat::OtherIsGone => Chat::OtherIsGone, of(409);
        Chat::ClientIdReused => Chat::ClientIdReused, of(409);
        Chat::Full(_) => Chat::Full("rooms".to_string()), of(409);
        Chat::TooLong(_) => Chat::TooLong(9000), of(413);
        Chat::Slow { .. } => Chat::Slow { retry_ms: 1500 }, of(429);
    };
}

/// Texts that people see and scripts may look for.
#[test]
fn reasons_have_their_texts() {
    let difference = || Difference { index: Index(7), parts: vec![2, 4] };
    for (text, wanted) in [
        (Reason::NoLeader(no_quorum()).to_string(), "no quorum: 2 of 5 voters reachable, 3 needed"),
        (Reason::Gateway(NodeId(4)).to_string(), "node 4 is a gateway, which cannot vote"),
        (Reason::Witness(NodeId(4)).to_string(), "node 4 is a witness, which cannot lead"),
        (
            Reason::NoData { witness: NodeId(3), ask: Some(NodeId(1)) }.to_string(),
            "node 3 is a witness, which keeps no data and serves no clients: ask node 1",
        ),
        (
            Reason::Raft(loses_quorum()).to_string(),
            "the change would lose the quorum: of the 4 voters that it leaves, 2 answer and 3 are needed",
        ),
        (
            Reason::NoLeader(NoLeader::OnlyVoterOffline(NodeId(4))).to_string(),
            "no quorum: node 4, which has the only vote, is offline: start it (phalanx node --id 4), or, if its folder is \
             lost, see phalanx recover",
        ),
        (
            Reason::Quota { quota: QuotaName::Keys, used: 3 << 19, most: 1 << 20 }.to_string(),
            "quota_kv_mb is reached: 1.5 of 1 MiB for keys and values; remove some, or raise the setting on every node",
        ),
        (
            Reason::Quota { quota: QuotaName::Jobs, used: 10, most: 10 }.to_string(),
            "quota_jobs is reached: 10 of 10 for jobs that wait or run; remove some, or raise the setting on every node",
        ),
        (
            Reason::TriggersBeyondQuota { most: 8 << 20 }.to_string(),
            "quota_db_mb (8 MiB) is exceeded by more than an eighth, and a DELETE may run triggers that insert: use DROP \
             TRIGGER or DROP TABLE first, or raise the setting on every node",
        ),
        (
            Reason::LeaderCorrupt(difference()).to_string(),
            "the leader is transferring the leadership: this node's key-value and sql differs from the majority's at \
             index 7: it refuses reads until its state is rebuilt; ask another node",
        ),
        (
            Reason::StaleRead { age_ms: Some(70) }.to_string(),
            "stale read: this node has not heard from a leader for 70 ms",
        ),
        (Reason::StaleRead { age_ms: None }.to_string(), "stale read: this node has not heard from a leader yet"),
        (
            UnknownReason::TooLate(no_quorum()).to_string(),
            "no answer in time, it may or may not be applied (no quorum: 2 of 5 voters reachable, 3 needed)",
        ),
        (
            Reason::NothingChanged(UnknownReason::LeaderLost).to_string(),
            "nothing was changed: the leader was lost before it answered",
        ),
    ] {
        assert_eq!(text, wanted);
    }
    assert!(
        Reason::Split(difference())
            .to_string()
            .starts_with("read-only: the nodes differ in key-value and sql at index 7 and")
    );
}

//! Heartbeats that hold only what changed, and words that can't be right.

use millrace_types::{Digest, Epoch, SlotPhase, SlotReport};

use super::support::{Cluster, heard, report, slot, spec, worker_id};
use crate::{Directive, Event, Rejection, Settings};

fn partly(cluster: &mut Cluster, digest: Digest, reports: Vec<SlotReport>) -> Vec<Directive> {
    let worker = worker_id("a");
    let session = cluster.sessions[&worker];
    cluster.now += 500;
    let event = Event::Heartbeat { session, worker, memory_used_bytes: 0, draining: false, digest, reports };
    cluster.try_apply(event).expect("accepted").directives
}

fn digest_of(cluster: &Cluster, count: usize) -> Digest {
    let runs = &cluster.running[&worker_id("a")];
    runs.iter().take(count).map(|(slot, (epoch, _))| (slot, *epoch)).collect()
}

#[test]
fn with_the_right_digest_what_is_not_told_is_as_it_was() {
    let mut cluster = Cluster::started(&["a"], 3);
    let digest = digest_of(&cluster, 3);
    for _ in 0..20 {
        assert_eq!(partly(&mut cluster, digest, vec![]), vec![], "nothing to repair and nothing to ask");
    }
    let mut changed = report(&slot(1), Epoch(1), SlotPhase::Running);
    changed.metrics.buffered_rows = 77;
    assert_eq!(partly(&mut cluster, digest, vec![changed]), vec![]);
    assert_eq!(cluster.slot(1).report.expect("told").metrics.buffered_rows, 77);
    assert!(cluster.slot(0).report.is_some(), "the others' reports stand");
}

#[test]
fn a_slot_that_vanished_shows_by_the_digest_and_is_granted_again() {
    let mut cluster = Cluster::started(&["a"], 3);
    let two = digest_of(&cluster, 2);
    let told: Vec<Directive> = (0..40).flat_map(|_| partly(&mut cluster, two, vec![])).collect();
    let asked = told.iter().filter(|directive| matches!(directive, Directive::ReportAll { .. })).count();
    assert!((3..=8).contains(&asked), "asked {asked} times in 20 s: again, and less and less often");
    let runs = cluster.running[&worker_id("a")].clone();
    let all =
        runs.iter().take(2).map(|(slot, (epoch, _))| report(slot, *epoch, SlotPhase::Running)).collect();
    let told = partly(&mut cluster, two, all);
    assert!(matches!(told.as_slice(), [Directive::Grant { epoch: Epoch(1), .. }]), "{told:?}");
}

#[test]
fn the_first_thing_asked_is_for_all_reports() {
    let mut cluster = Cluster::started(&["a"], 3);
    let two = digest_of(&cluster, 2);
    let told: Vec<Directive> = (0..4).flat_map(|_| partly(&mut cluster, two, vec![])).collect();
    assert!(matches!(told.as_slice(), [Directive::ReportAll { .. }]), "{told:?}");
}

#[test]
fn a_digest_that_never_matches_keeps_no_grant_from_being_repeated() {
    let mut cluster = Cluster::started(&["a"], 3);
    let runs = cluster.running[&worker_id("a")].clone();
    let mut grants = 0;
    for _ in 0..100 {
        let all = runs.iter().take(2).map(|(slot, (epoch, _))| report(slot, *epoch, SlotPhase::Running));
        let told = partly(&mut cluster, Digest(12_345), all.collect());
        grants += told.iter().filter(|directive| matches!(directive, Directive::Grant { .. })).count();
    }
    assert!((1..=12).contains(&grants), "{grants} times");
    assert_eq!(cluster.owners().len(), 3);
}

#[test]
fn a_revoke_that_got_lost_is_repeated_though_the_digest_is_right() {
    let mut cluster = Cluster::started(&["a"], 2);
    let pipeline = slot(0).pipeline;
    let digest = digest_of(&cluster, 2);
    cluster.try_apply(Event::PipelinePaused { pipeline }).expect("paused");
    let mut told = Vec::new();
    for _ in 0..6 {
        told.extend(partly(&mut cluster, digest, vec![]));
    }
    let revokes = told.iter().filter(|directive| matches!(directive, Directive::Revoke { .. })).count();
    assert!((2..=6).contains(&revokes), "{told:?}");
}

#[test]
fn claims_in_a_part_are_judged_as_in_the_whole() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let owner = cluster.slot(0).owner.expect("owned");
    let other = worker_id(if owner.as_str() == "a" { "b" } else { "a" });
    let session = cluster.sessions[&other];
    let claim = report(&slot(0), Epoch(1), SlotPhase::Running);
    let mut event = heard(session, other, vec![claim]);
    if let Event::Heartbeat { digest, .. } = &mut event {
        *digest = Digest(99);
    }
    let told = cluster.try_apply(event).expect("accepted").directives;
    assert!(matches!(told.as_slice(), [Directive::Revoke { .. }]), "{told:?}");
    assert_eq!(cluster.slot(0).owner, Some(owner));
}

#[test]
fn figures_that_can_not_be_are_repaired() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300] {
        for name in ["a", "b"] {
            let worker = worker_id(name);
            let mut reports = cluster.reports(&worker);
            for report in &mut reports {
                report.phase = SlotPhase::Running;
                report.metrics.bytes_per_second = wrong;
                report.metrics.records_per_second = wrong;
                report.metrics.cpu = wrong;
                report.metrics.lag = Some(u64::MAX);
            }
            let session = cluster.sessions[&worker];
            cluster.apply(heard(session, worker, reports));
        }
        cluster.now += 1_000;
    }
    let owners = cluster.owners();
    cluster.pass(60_000);
    assert_eq!(cluster.owners(), owners);
    for view in cluster.view().workers {
        assert!((25..=400).contains(&view.speed_percent), "{view:?}");
    }
    assert_eq!(cluster.coordinator.plan().moves, vec![]);
}

#[test]
fn zones_that_can_not_be_are_refused() {
    let mut cluster = Cluster::new(Settings::default());
    for zone in ["", "  ", "a\nb", &"z".repeat(65)] {
        let mut bad = spec("a", 1);
        bad.zone = Some(zone.to_owned());
        let event = Event::WorkerRegistered { session: 1, spec: bad, running: vec![] };
        assert!(matches!(cluster.try_apply(event), Err(Rejection::Zone { .. })), "{zone:?}");
    }
}

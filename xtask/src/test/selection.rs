//! Which tests run where.
//!
//! On the running kernel: all of them. In the virtual machines of other kernels, which are emulated
//! and slow: what the kernel decides, that is loading and the verifier's budget, the fixtures, one
//! test of each mechanism, and the attacks. With `--quick`: one test of each mechanism.
//!
//! Tests of the daemon and its files, of a thousand children, and with a real Docker or other real
//! servers run on the running kernel only.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Tests of one program of the package `tests`.
struct Selected {
    /// The test program.
    program: &'static str,
    /// Some of its tests, without their modules; all if empty.
    tests: &'static [&'static str],
    /// The other kernels on which they run.
    kernels: &'static [&'static str],
}

const BOTH: &[&str] = &["6.1", "6.12"];

/// What runs in virtual machines. A new mechanism of the dataplane gets a line.
const IN_MACHINES: &[Selected] = &[
    Selected { program: "object", tests: &[], kernels: BOTH },
    Selected { program: "fixtures", tests: &[], kernels: BOTH },
    Selected {
        program: "reach",
        tests: &[
            "parent_add_gives_existing_bridge_children_the_host_and_parent_rm_takes_it_away",
            "everybody_in_a_vlan_reaches_everybody",
            "a_passthru_child_takes_the_parent",
        ],
        kernels: BOTH,
    },
    Selected {
        program: "vlan",
        tests: &[
            "a_broadcast_reaches_every_other_member_of_its_vlan_exactly_once",
            "unicast_from_the_wire_through_generic_xdp_reaches_its_child_in_its_vlan_only",
            "nobody_speaks_for_another",
        ],
        kernels: BOTH,
    },
    Selected {
        program: "foreign",
        tests: &[
            "strangers_before_and_after_ours_on_tcx_all_run",
            "strangers_before_and_after_ours_in_clsact_all_run",
            "a_link_that_somebody_detaches_is_attached_again",
        ],
        kernels: BOTH,
    },
    Selected {
        program: "life",
        tests: &[
            "killed_under_load_it_loses_no_frame_and_finds_everything_as_it_was",
            "clsact_serves_where_tcx_is_missing",
        ],
        kernels: BOTH,
    },
    Selected {
        program: "upgrade",
        tests: &["another_way_of_attaching_replaces_the_first"],
        kernels: BOTH,
    },
    Selected {
        program: "strangers",
        tests: &["a_clsact_qdisc_of_somebody_else_stays_with_its_filters"],
        kernels: BOTH,
    },
    Selected {
        program: "security",
        tests: &[
            "no_attack_of_a_child_reaches_anybody_and_each_is_counted_as_what_it_is",
            "without_security_each_attack_is_heard_but_those_that_no_switch_would_carry",
            "no_mark_makes_a_child_its_sibling",
            "the_option_to_bypass_is_refused_to_children",
            "a_ring_cannot_change_what_was_checked",
            "an_option_that_32_bits_set_is_of_no_use",
            "a_macvlan_that_a_child_makes_on_its_own_is_held_to_the_childs_rules",
            "without_guards_a_macvlan_child_can_be_its_sibling_and_lie_to_those_in_bridge_mode",
            "nobody_on_the_wire_can_say_to_be_a_pinned_gateway",
            "no_checksum_is_written_where_headers_are_checked",
        ],
        kernels: BOTH,
    },
    Selected {
        program: "unrecorded",
        tests: &["links_without_a_record_are_isolated"],
        kernels: BOTH,
    },
    // The machines have cards.
    Selected { program: "cards", tests: &[], kernels: BOTH },
    // These need modules that the running kernel may not have, and not a version.
    Selected {
        program: "security",
        tests: &[
            "no_forgery_leaves_above_a_macvlan_childs_link",
            "no_forgery_leaves_above_a_veth_childs_link",
        ],
        kernels: &["6.12"],
    },
    Selected { program: "other_links", tests: &[], kernels: &["6.1"] },
    Selected { program: "docker_vlan", tests: &[], kernels: &["6.1"] },
    Selected { program: "sub_interface", tests: &[], kernels: &["6.12"] },
];

/// What runs with `--quick`, beside the unit tests: one test of each mechanism.
const QUICK: &[(&str, &str)] = &[
    ("backup", "a_backup_brings_back_links_macs_and_addresses"),
    ("conflicts", "an_address_that_somebody_on_the_lan_has_is_not_given_out"),
    ("crash", "parent_add_that_dies_anywhere_is_finished_or_forgotten"),
    ("declared", "what_is_declared_is_there_after_the_start_and_stays"),
    ("docker_protocol", "the_calls_of_dockerd_in_their_order"),
    ("docker_vlan", "containers_reach_the_host_and_the_wire_on_every_kernel"),
    ("events", "what_comes_and_goes_is_told_once"),
    ("fixtures", "the_programs_decide_as_the_host_does"),
    ("foreign", "strangers_before_and_after_ours_on_tcx_all_run"),
    ("internal", "nothing_goes_between_the_wire_and_an_internal_network"),
    ("life", "killed_under_load_it_loses_no_frame_and_finds_everything_as_it_was"),
    ("metrics", "metrics_say_what_the_commands_say"),
    ("networks", "a_network_as_dockers_macvlan_tutorial_has_it"),
    ("object", "libbpf_loads_the_objects_and_the_verifier_stays_within_budget"),
    ("parent", "a_parent_that_is_replaced_before_anybody_has_seen_it_gone_gets_its_children_back"),
    ("policy", "a_policy_is_what_was_asked_for_and_the_word_of_a_child_goes_first"),
    ("reach", "everybody_in_a_vlan_reaches_everybody"),
    ("real_life", "a_child_gets_its_address_from_a_real_dhcp_server"),
    ("reboot", "after_a_reboot_children_have_their_addresses_macs_and_routes"),
    ("security", "no_attack_of_a_child_reaches_anybody_and_each_is_counted_as_what_it_is"),
    ("security", "no_frame_around_the_guard_arrives"),
    ("security", "a_storm_of_one_child_is_held_to_its_limit_and_disturbs_nobody"),
    ("steering", "a_question_reaches_the_one_that_can_answer_it_alone"),
    ("store", "a_damaged_store_is_refused_kept_and_costs_no_traffic"),
    ("trace", "the_way_of_each_frame_is_told"),
    ("unrecorded", "links_without_a_record_are_isolated"),
    ("upgrade", "another_way_of_attaching_replaces_the_first"),
    ("vlan", "a_broadcast_reaches_every_other_member_of_its_vlan_exactly_once"),
    ("vlan", "unicast_from_the_wire_through_native_xdp_reaches_its_child_in_its_vlan_only"),
];

/// The tests of a kernel's virtual machine, as a filterset of nextest
/// (<https://nexte.st/docs/filtersets/reference/>).
pub(crate) fn in_machine(kernel: &str) -> String {
    let of_kernel = IN_MACHINES.iter().filter(|selected| selected.kernels.contains(&kernel));
    any(of_kernel.map(|selected| filter(selected.program, selected.tests)))
}

/// Every test of the programs that have tests in a virtual machine: those from which tests named on
/// the command line are taken.
pub(crate) fn programs_in_machine(kernel: &str) -> String {
    let of_kernel = IN_MACHINES.iter().filter(|selected| selected.kernels.contains(&kernel));
    any(of_kernel.map(|selected| filter(selected.program, &[])))
}

/// The tests of `--quick`.
pub(crate) fn quick() -> String {
    format!(
        "not package(tests) | {}",
        any(QUICK.iter().map(|(program, test)| filter(program, &[test])))
    )
}

/// The names of the test programs that virtual machines need.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    IN_MACHINES.iter().map(|selected| selected.program)
}

fn any(filters: impl Iterator<Item = String>) -> String {
    format!("({})", filters.collect::<Vec<_>>().join(" | "))
}

fn filter(program: &str, tests: &[&str]) -> String {
    let of_program = format!("package(tests) & binary({program})");
    if tests.is_empty() {
        return format!("({of_program})");
    }
    // A name without its modules.
    let tests = any(tests.iter().map(|test| format!("test(/(^|::){test}$/)")));
    format!("({of_program} & {tests})")
}

/// Fails if the lists here name a test that does not exist. `list` is what
/// `cargo nextest list --message-format json` prints.
pub(crate) fn check(list: &str) -> Result<()> {
    let list: Value = serde_json::from_str(list).context("cannot read nextest's list of tests")?;
    let suites = list["rust-suites"].as_object().context("nextest lists no test programs")?;
    let tests_of = |suite: &Value| -> Vec<String> {
        let tests = suite["testcases"].as_object().into_iter().flatten();
        tests.map(|(name, _)| name.rsplit("::").next().unwrap_or(name).to_owned()).collect()
    };
    let there: BTreeMap<&str, Vec<String>> = suites
        .values()
        .filter(|suite| suite["package-name"] == "tests" && suite["kind"] == "test")
        .filter_map(|suite| Some((suite["binary-name"].as_str()?, tests_of(suite))))
        .collect();
    let in_machines = IN_MACHINES.iter().map(|selected| (selected.program, selected.tests));
    let quick = QUICK.iter().map(|(program, test)| (*program, std::slice::from_ref(test)));
    for (program, tests) in in_machines.chain(quick) {
        let found = there.get(program);
        let found = found.with_context(|| {
            format!("there is no test program `{program}`; correct the lists in {}", file!())
        })?;
        for test in tests {
            let is_there = found.iter().any(|found| found == test);
            ensure!(is_there, "`{program}` has no test {test}; correct the lists in {}", file!());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check, in_machine};

    /// The filterset of a kernel names programs that are for it, and no others.
    #[test]
    fn filterset_holds_the_programs_of_its_kernel() {
        let old = in_machine("6.1");
        assert!(old.contains("(package(tests) & binary(object))"), "{old}");
        assert!(old.contains("binary(other_links)") && !old.contains("sub_interface"), "{old}");
        assert!(in_machine("6.12").contains("binary(sub_interface)"));
    }

    /// A test that was renamed is an error, and no test that silently no longer runs.
    #[test]
    fn name_without_a_test_is_an_error() {
        let error = check(r#"{ "rust-suites": {} }"#).unwrap_err().to_string();
        assert!(error.starts_with("there is no test program `object`"), "{error}");
        let list = r#"{ "rust-suites": { "tests::reach": {
            "package-name": "tests", "kind": "test", "binary-name": "reach",
            "testcases": { "other": {} } } } }"#;
        let error = check(&list.replace("reach", "object")).unwrap_err().to_string();
        assert!(error.starts_with("there is no test program `fixtures`"), "{error}");
    }
}

//! Output before the time limit is returned, and memory that is only reserved does not count.

use super::{LIMITS, attempt, finished, request, sandbox, text};
use crate::services::jobs::{End, JobOutcome, Limits, Request};

const SHORT: Limits = Limits { wall_ms: 3000, ..LIMITS };

fn run(language: &str, source: &str, limits: Limits) -> Option<End> {
    attempt(&sandbox(), &Request { limits, ..request(language, source) }, &mut |_, _| {})
}

#[test]
fn output_before_the_time_limit_is_kept() {
    let programs = [
        ("shell", "echo x; while :; do :; done"),
        ("python", "print('x')\nwhile True: pass"),
        ("javascript", "console.log('x'); for (;;);"),
        ("c", "#include <stdio.h>\nint main() { puts(\"x\"); for (;;); }"),
        ("cpp", "#include <iostream>\nint main() { std::cout << \"x\\n\"; for (;;); }"),
        ("java", "class X { public static void main(String[] a) { System.out.println(\"x\"); for (;;); } }"),
        ("rust", "fn main() { println!(\"x\"); loop {} }"),
    ];
    let check = |(language, source): (&str, &str)| {
        let Some(end) = run(language, source, SHORT) else { return };
        assert_eq!(
            (&end.outcome, text(&end.stdout)),
            (&JobOutcome::TimedOut, "x\n".to_string()),
            "{language}: {end:?}"
        );
    };
    // Two at a time: each waits for its time limit, and a compiler needs a processor.
    for pair in programs.chunks(2) {
        std::thread::scope(|scope| pair.iter().for_each(|program| drop(scope.spawn(|| check(*program)))));
    }
}

#[test]
fn a_program_hears_that_its_time_is_over() {
    let limits = Limits { wall_ms: 500, ..LIMITS };
    let end = run("shell", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.02; done", limits).unwrap();
    assert_eq!((end.outcome, text(&end.stdout)), (JobOutcome::TimedOut, "bye\n".to_string()));
    let python = "import signal, sys, time\ndef end(*_):\n  sys.stdout.write('saved'); sys.exit()\nsignal.signal(signal.SIGTERM, end)\ntime.sleep(60)";
    let Some(end) = run("python", python, Limits { wall_ms: 1500, ..LIMITS }) else { return };
    assert_eq!((end.outcome, text(&end.stdout)), (JobOutcome::TimedOut, "saved".to_string()));
}

#[test]
fn javascript_may_reserve_what_it_does_not_use() {
    let memory = "new WebAssembly.Memory({initial: 1}); console.log('ok')";
    let Some(end) = run("javascript", memory, LIMITS) else { return };
    finished(&end, 0, "ok\n");
    let fetch = "fetch('http://127.0.0.1:1').catch(() => console.log('no network'))";
    finished(&run("javascript", fetch, LIMITS).unwrap(), 0, "no network\n");
    let eater = "const kept = []; for (;;) kept.push(Buffer.alloc(1 << 20, 1))";
    assert_eq!(run("javascript", eater, LIMITS).unwrap().outcome, JobOutcome::MemoryExceeded);
}

#[test]
fn reserved_memory_is_free_and_writable_memory_is_bounded() {
    let map = |protection: &str, gigabytes: u64| {
        format!(
            "#include <stdio.h>\n#include <sys/mman.h>\nint main() {{ void *p = mmap(0, {gigabytes}ull << 30, {protection}, \
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); puts(p == MAP_FAILED ? \"refused\" : \"mapped\"); }}"
        )
    };
    let Some(end) = run("c", &map("PROT_NONE", 100), LIMITS) else { return };
    finished(&end, 0, "mapped\n");
    finished(&run("c", &map("PROT_READ | PROT_WRITE", 100), LIMITS).unwrap(), 0, "refused\n");
}

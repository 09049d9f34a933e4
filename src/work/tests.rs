//! Tests of the sandbox with real compilers and hostile programs: each program is stopped, reported correctly, and
//! leaves nothing behind.
//!
//! A language that this machine lacks is skipped with a message; the shell and the sandbox must be present (`test.sh`
//! installs them).

mod bombs;
mod leftovers;
mod limits;
mod output;
mod places;
mod probes;
mod start;

use super::leftovers::is_mounted_from;
use super::monitor::OutputStream;
use super::run::Attempt;
use super::runtimes::{self, AvailableRuntime, find, java_class, java_file};
use super::sandbox::{Sandbox, SandboxLimits};
use super::scratch::Scratch;
use crate::services::jobs::{End, JobOutcome, Limits, Request};
use crate::settings::{SandboxKind, known_runtimes as known};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LIMITS: Limits =
    Limits { wall_ms: 10_000, cpu_ms: 5_000, memory_mb: 128, output_bytes: 64 << 10, files_mb: 8, processes: 32 };

fn sandbox() -> Sandbox {
    Sandbox::try_out(SandboxKind::Full, &std::env::temp_dir()).expect("bubblewrap works here; test.sh installs it")
}

fn found(language: &str) -> Option<AvailableRuntime> {
    // Only this language: starting every compiler to learn its version would load the whole machine.
    let asked: Vec<_> = known().into_iter().filter(|runtime| runtime.language == language).collect();
    let found = find(&asked).pop();
    if found.is_none() {
        eprintln!("skipped: this machine has no {language}");
    }
    found
}

fn request(language: &str, source: &str) -> Request {
    let runtime = known().into_iter().find(|runtime| runtime.language == language).unwrap();
    Request {
        language: language.to_string(),
        files: vec![(runtime.file_name, source.as_bytes().to_vec().into())],
        stdin: Default::default(),
        args: Vec::new(),
        limits: LIMITS,
        keep_ms: 0,
    }
}

/// A folder through which the users of slots may pass.
fn passable() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    dir
}

/// Runs an attempt in a separate folder; asserts that its files are removed.
fn attempt(sandbox: &Sandbox, request: &Request, hear: &mut dyn FnMut(OutputStream, &[u8])) -> Option<End> {
    // Each test may be a process of its own, and two concurrent programs must not share a user.
    static SLOT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(16)));
    let found = found(&request.language)?;
    let dir = passable();
    let scratch = dir.path().join("attempt");
    let is_cancelled = AtomicBool::new(false);
    let slot = SLOT.fetch_add(1, Ordering::Relaxed);
    let attempt = Attempt {
        sandbox,
        found: &found,
        request,
        limits: request.limits,
        scratch: scratch.clone(),
        slot,
        is_cancelled: &is_cancelled,
        hear,
    };
    let end = attempt.run().expect("sandboxes start here");
    assert!(!scratch.exists(), "the scratch folder is still there");
    Some(end)
}

fn run(request: &Request) -> Option<End> {
    attempt(&sandbox(), request, &mut |_, _| {})
}

fn shell(source: &str) -> End {
    run(&request("shell", source)).expect("every machine has a shell")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn finished(end: &End, code: i32, stdout: &str) {
    assert_eq!(
        (&end.outcome, end.exit_code),
        (&JobOutcome::Finished, Some(code)),
        "{} {}",
        text(&end.stdout),
        text(&end.stderr)
    );
    assert_eq!(text(&end.stdout), stdout);
}

#[test]
fn every_language_says_hello() {
    let programs = [
        ("shell", "echo hello $1; cat"),
        ("python", "import sys\nprint('hello', sys.argv[1])\nsys.stdout.write(sys.stdin.read())"),
        ("javascript", "console.log('hello', process.argv[2]); process.stdout.write(require('fs').readFileSync(0))"),
        (
            "c",
            "#include <stdio.h>\nint main(int n, char **v) { printf(\"hello %s\\n\", v[1]); int c; while ((c = getchar()) >= 0) putchar(c); }",
        ),
        (
            "cpp",
            "#include <iostream>\nint main(int n, char **v) { std::cout << \"hello \" << v[1] << \"\\n\" << std::cin.rdbuf(); }",
        ),
        (
            "rust",
            "fn main() { println!(\"hello {}\", std::env::args().nth(1).unwrap()); std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap(); }",
        ),
        (
            "java",
            "public class Greeter { public static void main(String[] a) throws Exception { System.out.println(\"hello \" + a[0]); System.in.transferTo(System.out); System.out.flush(); } }",
        ),
    ];
    for (language, source) in programs {
        let request =
            Request { args: vec!["you".to_string()], stdin: b"and you\n".to_vec().into(), ..request(language, source) };
        if let Some(end) = run(&request) {
            eprintln!("{language}: compiled in {} ms, ran {} ms", end.compile_ms, end.run_ms);
            finished(&end, 0, "hello you\nand you\n");
        }
    }
}

#[test]
fn a_java_class_may_have_a_run_that_returns_a_text() {
    let source = "// class Wrong\npackage a.b;\nclass Helper { }\npublic final class HelloWorld { public String run() { return \"Hello world!\"; } }";
    let Some(end) = run(&request("java", source)) else { return };
    finished(&end, 0, "Hello world!");
    let neither = run(&request("java", "class Nothing { }")).unwrap();
    assert_eq!(neither.exit_code, Some(1));
    assert!(text(&neither.stderr).contains("neither a static main"), "{}", text(&neither.stderr));
}

#[test]
fn the_class_of_a_java_source_is_found() {
    let name = |source: &str| java_class(source);
    assert_eq!(name("class A {}\npublic class B {}").as_deref(), Some("B"));
    assert_eq!(name("/* class A */ String s = \"class C\"; record D() {}").as_deref(), Some("D"));
    assert_eq!(name("package x.y ; final class E {}").as_deref(), Some("x.y.E"));
    assert_eq!(name("int x = '\"'; public sealed abstract class F {}").as_deref(), Some("F"));
    assert_eq!(name("nothing /* at all"), None);
    assert_eq!(name("class"), None);
    let helper = "interface Task { String run(); } class Help { void main2() {} } class App { public static void main(String[] a) {} }";
    assert_eq!(name(helper).as_deref(), Some("App"));
    let runs = "interface Task { String run(); } class Hello implements Task { public String run() { return \"\"; } }";
    assert_eq!(name(runs).as_deref(), Some("Hello"));
    let hidden = "public class Out { static class In { public static void main(String[] a) {} } } class Go { static void main(String[] a) {} }";
    assert_eq!((name(hidden).as_deref(), java_file(hidden).as_deref()), (Some("Go"), Some("Out")));
}

#[test]
fn compiler_messages_are_returned() {
    for (language, source, said) in [
        ("c", "int main() { return x; }", "x"),
        ("rust", "fn main() { y }", "y"),
        ("java", "class A { int z() { } }", "return"),
    ] {
        let Some(end) = run(&request(language, source)) else { continue };
        assert_eq!(end.outcome, JobOutcome::NotCompiled);
        assert!(text(&end.stderr).contains(said), "{}", text(&end.stderr));
    }
}

#[test]
fn exit_codes_signals_and_live_output_are_reported() {
    finished(&shell("echo out; echo err >&2; exit 7"), 7, "out\n");
    let killed = shell("kill -SEGV $$");
    assert_eq!((killed.outcome, killed.exit_code, killed.signal), (JobOutcome::Finished, None, Some(11)));
    let mut heard = Vec::new();
    let end = attempt(&sandbox(), &request("shell", "echo one; sleep 0.2; echo two >&2"), &mut |from, bytes| {
        heard.push((from, text(bytes)));
    });
    finished(&end.unwrap(), 0, "one\n");
    assert_eq!(heard, [(OutputStream::Out, "one\n".to_string()), (OutputStream::Err, "two\n".to_string())]);
}

#[test]
fn exceeded_time_is_reported_even_if_signals_are_ignored() {
    let limits = Limits { wall_ms: 300, ..LIMITS };
    for source in ["sleep 60", "trap '' TERM INT HUP; while :; do sleep 1; done", "sleep 60 & sleep 60"] {
        // Measured from the program's start: the start of a sandbox has a separate limit, and takes long on a busy
        // machine.
        let mut begun = None;
        let request = Request { limits, ..request("shell", &format!("echo begun; {source}")) };
        let end = attempt(&sandbox(), &request, &mut |_, _| begun = Some(Instant::now())).unwrap();
        assert_eq!(end.outcome, JobOutcome::TimedOut, "{source}");
        let took = begun.expect("it said so").elapsed();
        assert!(took < Duration::from_secs(5), "{source} took {took:?}");
    }
    // A program that gets a twentieth of a processor needs that long to use up its processor time.
    let busy = Limits { cpu_ms: 1000, wall_ms: 120_000, ..LIMITS };
    let end = run(&Request { limits: busy, ..request("shell", "while :; do :; done") }).unwrap();
    assert_eq!((end.outcome, end.signal), (JobOutcome::TimedOut, Some(24)));
}

#[test]
fn too_much_output_is_cut_where_it_is_too_much() {
    let end = shell("while :; do echo 0123456789012345678901234567890123456789; done");
    assert_eq!(end.outcome, JobOutcome::OutputExceeded);
    assert_eq!(end.stdout.len() + end.stderr.len(), LIMITS.output_bytes as usize);
}

#[test]
fn exceeded_memory_is_reported() {
    let Some(end) = run(&request("python", "x = []\nwhile True: x.append(bytearray(1 << 20))")) else { return };
    assert_eq!(end.outcome, JobOutcome::MemoryExceeded, "{}", text(&end.stderr));
    assert!(end.memory_peak_kib > LIMITS.memory_mb << 10);
}

#[test]
fn memory_that_is_shared_is_counted() {
    for source in [
        "import mmap, time\nm = mmap.mmap(-1, 200 << 20)\nfor i in range(0, 200 << 20, 4096): m[i] = 1\ntime.sleep(9)",
        "import os, time\nb = bytearray(os.urandom(1 << 20)) * 100\nfor i in range(3):\n  if os.fork() == 0:\n    b[::4096] = b'y' * len(b[::4096]); time.sleep(9)\ntime.sleep(9)",
    ] {
        // One file may be as long as all the memory here: the memory limit must be the one that stops the program.
        let limits = Limits { files_mb: 400, memory_mb: 128, ..LIMITS };
        let Some(end) = run(&Request { limits, ..request("python", source) }) else { return };
        assert_eq!(end.outcome, JobOutcome::MemoryExceeded, "{source} {}", text(&end.stderr));
    }
}

#[test]
fn memory_of_a_process_whose_first_thread_has_ended_is_counted() {
    let source = r#"
        #include <pthread.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        void *eat(void *x) { char *volatile p = malloc(300 << 20); memset(p, 1, 300 << 20); sleep(9); exit(*p - 1); }
        int main() { pthread_t t; pthread_create(&t, 0, eat, 0); pthread_exit(0); }"#;
    let Some(end) = run(&request("c", source)) else { return };
    assert_eq!(end.outcome, JobOutcome::MemoryExceeded, "{end:?}");
}

#[test]
fn resources_outside_namespaces_are_refused() {
    let source = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <stdio.h>
        #include <sys/ptrace.h>
        #include <sys/socket.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static void report(const char *what, long got) { printf("%s %s\n", what, got < 0 && errno == ENOSYS ? "refused" : "DONE"); }
        int main() {
            report("ptrace", ptrace(PTRACE_ATTACH, 1, 0, 0));
            report("session keyring", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
            report("a key", syscall(SYS_add_key, "user", "k", "v", 1, -4));
            report("segment", syscall(SYS_shmget, 0, 4096, 0666));
            report("memfd", syscall(SYS_memfd_create, "x", 0));
            report("io_uring", syscall(SYS_io_uring_setup, 1, 0));
            report("vsock", socket(40, SOCK_STREAM, 0));
            printf("unix %s\n", socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? "REFUSED" : "works");
            printf("first process %s\n", access("/proc/1/mem", F_OK) ? "hidden" : "SEEN");
        }"#;
    let Some(end) = run(&request("c", source)) else { return };
    let said = text(&end.stdout);
    let expected = "ptrace refused\nsession keyring refused\na key refused\nsegment refused\nmemfd refused\nio_uring refused\n\
                    vsock refused\nunix works\nfirst process hidden\n";
    assert_eq!(said, expected, "{}", text(&end.stderr));
}

#[test]
fn a_sandboxed_process_is_known_by_its_mounts() {
    let dir = passable();
    let user = sandbox().user(7);
    let scratch = Scratch::create(&dir.path().join("jobs/1-1"), user, 1);
    assert!(scratch.is_err(), "the folder above is made by reset_jobs_dir()");
    std::fs::create_dir(dir.path().join("jobs")).unwrap();
    let scratch = Scratch::create(&dir.path().join("jobs/1-1"), user, 1).unwrap();
    let bounds = SandboxLimits { wall_s: 10, cpu_s: 5, data: 1 << 30, file: 1 << 20, processes: 64 };
    let words = ["cat", "/proc/self/mountinfo"].map(String::from);
    let output = sandbox().command(&words, scratch.path(), &[], 7, &bounds).output().unwrap();
    let table = text(&output.stdout);
    let is_from = |jobs: &Path| table.lines().any(|line| is_mounted_from(line, jobs));
    assert!(is_from(&dir.path().join("jobs")), "{table}");
    assert!(!is_from(&dir.path().join("job")), "{table}");
    assert!(!is_from(Path::new("/data/jobs")), "{table}");
    // Services with separate mount namespaces, and sandboxes that are being set up, have a copy of the mount itself.
    let copy = format!("77 70 0:52 / {0}/jobs/1-1 rw - tmpfs {0}/jobs/1-1 rw", dir.path().display());
    assert!(!is_mounted_from(&copy, &dir.path().join("jobs")));
}

#[test]
fn jobs_go_first_where_memory_is_short() {
    finished(&shell("cat /proc/self/oom_score_adj"), 0, "1000\n");
}

#[test]
fn no_namespaces_are_made_within_the_sandbox() {
    for flags in ["-U", "-Ur", "-Urm", "-m"] {
        let end = shell(&format!("unshare {flags} true && echo made"));
        assert_eq!(text(&end.stdout), "", "{flags}");
        assert_ne!(end.exit_code, Some(0), "{flags}");
    }
}

#[test]
fn exit_codes_that_look_like_signals_are_no_limits() {
    finished(&shell("exit 152"), 152, "");
    finished(&shell("exit 153"), 153, "");
    finished(&shell("exit 190"), 190, "");
    let sparse = shell("exec dd if=/dev/zero of=x bs=1 count=1 seek=9000000 2>/dev/null");
    assert_eq!(sparse.outcome, JobOutcome::Finished, "a hole takes up nothing {}", text(&sparse.stderr));
}

#[test]
fn many_threads_have_room() {
    let source = "import threading, time\nt = [threading.Thread(target=time.sleep, args=(0.3,)) for _ in range(100)]\nfor x in t: x.start()\nfor x in t: x.join()\nprint('all')";
    let limits = Limits { processes: 120, memory_mb: 64, ..LIMITS };
    let Some(end) = run(&Request { limits, ..request("python", source) }) else { return };
    finished(&end, 0, "all\n");
}

#[test]
fn files_keep_their_names_and_contents() {
    let java = |files: &[(&str, &str)]| Request {
        files: files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec().into())).collect(),
        ..request("java", "")
    };
    let main = "class Start { public static void main(String[] a) { System.out.print(Other.WORD); } }";
    let other = "class Other { static final String WORD = \"both\"; }";
    for files in [[("Main.java", main), ("Start.java", other)], [("Main.java", main), ("x/Main.java", other)]] {
        let Some(end) = run(&java(&files)) else { return };
        finished(&end, 0, "both");
    }
    let twice = run(&Request {
        files: vec![("main.sh".into(), b"".to_vec().into()), ("main.sh".into(), b"".to_vec().into())],
        ..request("shell", "")
    });
    assert_eq!(
        twice.unwrap().outcome,
        JobOutcome::Failed("cannot write the job's files: two of them are named main.sh".into())
    );
    let dashed = run(&Request { files: vec![("-e".into(), b"echo file".to_vec().into())], ..request("shell", "") });
    finished(&dashed.unwrap(), 0, "file\n");
}

#[test]
fn writing_files_stops_at_the_time_limit() {
    let deep =
        |n: usize| (format!("{}{n}", "d/".repeat(400) + &format!("{n}/") + &"e/".repeat(300)), Vec::new().into());
    let limits = Limits { wall_ms: 300, ..LIMITS };
    let request = Request { files: (0..1000).map(deep).collect(), limits, ..request("shell", "") };
    let end = run(&request).unwrap();
    assert_eq!(
        end.outcome,
        JobOutcome::Failed("cannot write the job's files: it takes longer than wall_ms allows, 300 ms".into())
    );
}

/// For a program that must reach another limit than these, however slow the machine is.
const PATIENT: Limits = Limits { wall_ms: 120_000, cpu_ms: 120_000, ..LIMITS };

/// A script that fills a folder with empty files: hard links to a hundred files, because creating a separate file for
/// each name takes more than a millisecond on some file systems (ext4 skips all inodes that were freed in the last
/// minutes).
fn fill_with_empty_files(folder: &str) -> String {
    format!(
        "cd {folder}; mkdir 0; for i in $(seq 100); do : > 0/$i; done; i=0; while :; do i=$((i+1)); cp -rl 0 $i; done"
    )
}

#[test]
fn too_many_files_are_reported() {
    let large = shell("exec head -c 9000000 /dev/zero > large");
    assert_eq!((large.outcome, large.signal), (JobOutcome::FilesExceeded, Some(25)));
    // If the signal ends only one process of the program, the others may continue, and get the reason.
    let part = shell("head -c 9000000 /dev/zero > large; echo still here");
    finished(&part, 0, "still here\n");
    assert!(text(&part.stderr).contains("File size limit exceeded"), "{}", text(&part.stderr));
    let many = shell("i=0; while :; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done");
    assert_eq!(many.outcome, JobOutcome::FilesExceeded);
    let elsewhere = shell("head -c 100000000 /dev/zero > /tmp/x; echo x > /usr/x; echo y > /y; ls /tmp/x");
    assert_eq!(elsewhere.outcome, JobOutcome::Finished, "one file is as large as it may be, and the rest is read-only");
    let too = shell("head -c 6000000 /dev/zero > /tmp/x; head -c 6000000 /dev/zero > y");
    assert_eq!(too.outcome, JobOutcome::FilesExceeded, "what lies in /tmp counts, also of one who is quick");
    let shared = shell("head -c 6000000 /dev/zero > /dev/shm/x; head -c 6000000 /dev/zero > y");
    assert_eq!(shared.outcome, JobOutcome::FilesExceeded, "what lies in /dev/shm counts");
    let unlinked = "for i in 1 2 3 4; do exec 9>f; rm f; head -c 7000000 /dev/zero >&9; sleep 60 & done; sleep 60";
    assert_eq!(shell(unlinked).outcome, JobOutcome::FilesExceeded, "removed files count as long as they are open");
    let empty = run(&Request { limits: PATIENT, ..request("shell", &fill_with_empty_files("/tmp")) }).unwrap();
    assert_eq!(empty.outcome, JobOutcome::FilesExceeded, "files without content count {empty:?}");
    let device = shell("echo x > /dev/x; echo y > /dev/shm/y && cat /dev/shm/y");
    finished(&device, 0, "y\n");
}

/// Nested folders, each created from the one above.
fn nest(top: &Path, deep: usize) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let open = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut at = openat(CWD, top, open, Mode::empty()).unwrap();
    for _ in 0..deep {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", open, Mode::empty()).unwrap();
    }
}

#[test]
fn deep_folders_are_harmless() {
    let Some(end) = run(&request(
        "python",
        "import os\nfor i in range(30000):\n  os.mkdir('d'); os.chdir('d')\n  if i % 7 == 0: os.symlink('/', 'l')\nprint('deep')",
    )) else {
        return;
    };
    assert!(matches!(end.outcome, JobOutcome::FilesExceeded), "{end:?}");
    // On a disk, by a thread with a stack as small as a slot's, also where folders are locked.
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    let top = dir.path().join("top");
    let script = format!(
        "mkdir {0} {0}/.lifted-1 && touch {0}/.lifted-1/x {0}/.lifted-2 && cd {0}; ln -s {1} l; mkdir -p a/b && chmod 0 a/b && chmod 0 a",
        top.display(),
        precious.display()
    );
    assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    nest(&top, 30_000);
    assert_eq!(super::untrusted_dir::count(&top, u64::MAX), None, "too deep to count");
    let removing = top.clone();
    let done = crate::node::spawn::spawn("job-0", move || super::untrusted_dir::remove(&removing).unwrap()).unwrap();
    done.join().unwrap();
    assert!(!top.exists() && precious.exists());
    super::untrusted_dir::remove(&top).expect("what is gone is no error");
}

#[test]
fn folders_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
    std::fs::write(dir.path().join("a/b/c"), [7; 10_000]).unwrap();
    std::fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
    let count = super::untrusted_dir::count(dir.path(), 10).unwrap();
    assert_eq!((count.files, count.longest), (5, 1 << 30));
    assert!((10_000..20_000).contains(&count.bytes), "{count:?}");
    assert_eq!(super::untrusted_dir::count(dir.path(), 4), None);
}

/// Also used by tests of whole clusters.
const BOMB: &str = include_str!("../../tests/cluster/jobs/fork_bomb.sh");

#[test]
fn a_fork_bomb_is_stopped_and_affects_no_other_job() {
    let begun = Instant::now();
    let end = run(&Request { limits: Limits { wall_ms: 3000, ..LIMITS }, ..request("shell", BOMB) }).unwrap();
    assert_eq!(end.outcome, JobOutcome::ProcessesExceeded, "{}", text(&end.stderr));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    finished(&shell("echo fine"), 0, "fine\n");
}

#[test]
fn nothing_outside_can_be_reached_or_read() {
    let secret = tempfile::tempdir().unwrap();
    let path = secret.path().join("secret");
    std::fs::write(&path, "the secret").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let end = shell(&format!(
        "cat {} /etc/shadow /etc/passwd /root/.bashrc; ls /home /root /work; ls -A /job; env; kill -9 {}; ls /proc/self/fd",
        path.display(),
        std::process::id()
    ));
    let said = text(&end.stdout);
    assert!(!said.contains("secret") && !said.contains("root:"), "{said}");
    assert!(said.starts_with("main.sh\n"), "only its own file: {said}");
    // If this program is not root, the outermost process of the sandbox belongs to the same user as well.
    let first = text(&shell("cat /proc/1/environ").stdout);
    assert!(first.is_empty() || first.split('\0').all(|pair| pair.is_empty() || pair.starts_with("PATH=")), "{first}");
    for wanted in ["HOME=/job\n", "PATH=/usr/local/bin:/usr/bin:/bin\n"] {
        assert!(said.contains(wanted), "{said}");
    }
    assert!(!said.contains("CARGO"), "the environment is not this program's: {said}");
    assert!(said.ends_with("0\n1\n2\n3\n"), "descriptors besides the three and that of ls: {said}");
    if let Some(end) =
        run(&request("python", &format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")))
    {
        assert_eq!(end.exit_code, Some(1), "{end:?}");
        assert!(text(&end.stderr).contains("Error"), "{}", text(&end.stderr));
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody came");
}

/// The sandbox is set up differently for root and for other users: where the tests run as root, these run again as an
/// unprivileged user.
#[test]
fn jobs_of_users_without_rights_are_sandboxed_too() {
    const TESTS: [&str; 22] = [
        "bombs::a_fork_bomb_in_c_is_noticed_soon_on_a_busy_machine",
        "bombs::programs_give_way_to_their_watcher",
        "bombs::the_processes_of_a_sandbox_are_counted_in_one_look",
        "bombs::threads_are_counted_where_the_processes_of_a_sandbox_are",
        "start::other_threads_of_the_user_do_not_count",
        "start::a_fork_bomb_touches_no_other_slot",
        "start::a_sandbox_that_does_not_start_is_no_end",
        "output::output_before_the_time_limit_is_kept",
        "output::javascript_may_reserve_what_it_does_not_use",
        "nothing_outside_can_be_reached_or_read",
        "a_fork_bomb_is_stopped_and_affects_no_other_job",
        "exceeded_time_is_reported_even_if_signals_are_ignored",
        "links_and_locked_folders_are_not_followed",
        "exit_codes_signals_and_live_output_are_reported",
        "exit_codes_that_look_like_signals_are_no_limits",
        "memory_that_is_shared_is_counted",
        "jobs_go_first_where_memory_is_short",
        "no_namespaces_are_made_within_the_sandbox",
        "many_threads_have_room",
        "writing_files_stops_at_the_time_limit",
        "exceeded_memory_is_reported",
        "cancelled_programs_end_at_once",
    ];
    run_tests_as(&as_user("65534"), &TESTS);
}

/// The kernel counts an attempt's files only if the node is root; otherwise they are counted by walking through the
/// folders.
#[test]
fn users_without_rights_leave_no_files_either() {
    const TESTS: [&str; 8] = [
        "too_many_files_are_reported",
        "limits::a_file_filler_is_stopped_without_a_sandbox",
        "limits::detached_children_end_with_their_program",
        "deep_folders_are_harmless",
        "leftovers::a_start_clears_what_a_killed_process_left",
        "files_keep_their_names_and_contents",
        "places::folders_lie_where_the_users_of_slots_may_pass",
        "places::jobs_run_where_their_folders_were_placed",
    ];
    run_tests_as(&as_user("65533"), &TESTS);
}

fn as_user(user: &str) -> Vec<String> {
    vec![format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into(), "--inh-caps=-all".into()]
}

/// Runs tests of this module again after `setpriv` has removed these privileges, if there are any to remove.
fn run_tests_as(less: &[String], names: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: the others run without rights as it is");
    }
    let dir = tempfile::tempdir().unwrap();
    let (exe, scratch) = (dir.path().join("tests"), dir.path().join("scratch"));
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    allow(dir.path(), 0o755);
    allow(&exe, 0o755);
    allow(&scratch, 0o777);
    let mut command = std::process::Command::new("setpriv");
    command.args(less).arg(&exe).args(names.iter().map(|name| format!("work::tests::{name}")));
    command.args(["--exact", "--test-threads=1"]);
    command.current_dir("/").env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TMPDIR", &scratch);
    let output = command.output().unwrap();
    let said = text(&output.stdout);
    let all = format!(" {} passed", names.len());
    assert!(output.status.success() && said.contains(&all), "{said}\n{}", text(&output.stderr));
}

#[test]
fn links_and_locked_folders_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    std::fs::write(&precious, "kept").unwrap();
    let end = shell(&format!(
        "ln -s {} out; ln -s / root; mkdir -p a/b/c; touch a/b/c/d; chmod 000 a/b; chmod 500 a; echo done",
        outside.path().display()
    ));
    finished(&end, 0, "done\n");
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "kept");
}

#[test]
fn cancelled_programs_end_at_once() {
    let found = found("shell").unwrap();
    let (sandbox, dir) = (sandbox(), passable());
    let is_cancelled = AtomicBool::new(false);
    let request = request("shell", "echo begun; sleep 60");
    let mut cancelled = None;
    let end = Attempt {
        sandbox: &sandbox,
        found: &found,
        request: &request,
        limits: LIMITS,
        scratch: dir.path().join("job"),
        slot: 77,
        is_cancelled: &is_cancelled,
        hear: &mut |_, _| {
            is_cancelled.store(true, Ordering::Relaxed);
            cancelled = Some(Instant::now());
        },
    }
    .run()
    .unwrap();
    assert_eq!((end.outcome, text(&end.stdout)), (JobOutcome::Cancelled, "begun\n".to_string()));
    assert!(cancelled.is_some_and(|at| at.elapsed() < Duration::from_secs(5)));
}

#[test]
fn places_are_filled_in() {
    let command: Vec<String> = ["{home}/bin/x", "-o", "out", "{files}", "{file}.y"].map(str::to_string).to_vec();
    let files = ["-a", "b"].map(str::to_string);
    let places = runtimes::Places { home: Some(Path::new("/h")), files: &files, class: "" };
    assert_eq!(runtimes::fill(&command, &places), ["/h/bin/x", "-o", "out", "./-a", "b", "./-a.y"]);
}

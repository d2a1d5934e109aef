// The firewall of Examples/C in Rust, by hand-written declarations of what it uses (bindgen makes all from ringway.h):
//   rustc -O -L PREFIX/lib -l ringway firewall.rs && ./firewall vhost-user:/run/vm1.sock vhost-user:/run/vm2.sock 53
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::{env, io, mem, ptr};

#[repr(C)]
struct Function {
    size: usize,
    front_bytes: u32,
    tick_microseconds: u32,
    flags: u32,
    drop_cause_count: u32,
    drop_causes: *const *const c_char,
    counters: *const *const c_char,
    counter_count: u32,
    reserved: u32,
    user: *mut c_void,
    thread_init: Option<extern "C" fn(*mut c_void, u32, *mut *mut c_void) -> c_int>,
    thread_free: Option<extern "C" fn(*mut c_void, u32, *mut c_void)>,
    process: Option<extern "C" fn(*const Rules, *mut c_void) -> u32>,
    tick: Option<extern "C" fn(*mut c_void, *mut c_void)>,
    port_changed: Option<extern "C" fn(*mut c_void, u32, c_int)>,
}

#[repr(C)]
struct Options {
    size: usize,
    mode: *const c_char,
    function: *const Function,
    cpus: *const c_char,
    unpinned_threads: u32,
    mac_ageing: u32,
    busyloop: *const c_char,
    pacing: *const c_char,
    log: Option<extern "C" fn(*mut c_void, c_int, *const c_char)>,
    log_user: *mut c_void,
    log_level: u32,
    reserved: u32,
}

#[repr(C)]
struct Info {
    size: usize,
    count: u32,
    port: u32,
    pair: u32,
    ports: u32,
    seconds: u32,
    reserved: u32,
    ticks: u64,
    refused: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct View {
    front: *mut u8,
    front_length: u32,
    frame_length: u32,
}

extern "C" {
    fn ringway_engine_new(ports: *const *const c_char, n: usize, o: *const Options, e: *mut *mut c_void) -> c_int;
    fn ringway_engine_start(engine: *mut c_void) -> c_int;
    fn ringway_engine_free(engine: *mut c_void) -> c_int;
    fn ringway_last_error() -> *const c_char;
    fn ringway_burst_info_get(burst: *const c_void, info: *mut Info) -> c_int;
    fn ringway_burst_views(burst: *mut c_void, views: *mut View, room: usize) -> c_int;
    fn ringway_burst_decide(burst: *mut c_void, verdicts: *const u32, count: usize) -> c_int;
}

struct Rules {
    denied: Vec<u16>,
}

fn udp_port(p: &[u8]) -> Option<u16> {
    if p.len() < 34 {
        return None;
    }
    let header = usize::from(p[14] & 15) * 4;
    let is_udp = p[12..14] == [8, 0] && p[14] >> 4 == 4 && header >= 20 && p[23] == 17;
    let is_first = u16::from_be_bytes([p[20], p[21]]) & 0x1fff == 0;
    let port = p.get(14 + header + 2..14 + header + 4)?;
    (is_udp && is_first).then(|| u16::from_be_bytes([port[0], port[1]]))
}

// Must not unwind: a panic in an `extern "C"` function ends the process.
extern "C" fn process(rules: *const Rules, burst: *mut c_void) -> u32 {
    let mut info: Info = unsafe { mem::zeroed() };
    info.size = mem::size_of::<Info>();
    let mut views = [View { front: ptr::null_mut(), front_length: 0, frame_length: 0 }; 64];
    let mut verdicts = [0u32; 64];
    unsafe {
        ringway_burst_info_get(burst, &mut info);
        let n = ringway_burst_views(burst, views.as_mut_ptr(), views.len()).max(0) as usize;
        for (view, verdict) in views[..n].iter().zip(&mut verdicts) {
            let bytes = std::slice::from_raw_parts(view.front, view.front_length as usize);
            let drops = udp_port(bytes).is_some_and(|port| (*rules).denied.contains(&port));
            // RINGWAY_DROP, or the other port's place and 1.
            *verdict = if drops { 0 } else { 2 - info.port };
        }
        ringway_burst_decide(burst, verdicts.as_ptr(), n);
    }
    0xffff_fffe // RINGWAY_EACH
}

fn main() {
    let words: Vec<CString> = env::args().skip(1).map(|s| CString::new(s).unwrap()).collect();
    let ports: Vec<*const c_char> = words.iter().take(2).map(|s| s.as_ptr()).collect();
    let rules = Rules { denied: env::args().skip(3).map(|s| s.parse().unwrap()).collect() };
    // What is 0 or none takes the default.
    let mut function: Function = unsafe { mem::zeroed() };
    function.size = mem::size_of::<Function>();
    function.front_bytes = 64;
    function.process = Some(process);
    function.user = &rules as *const Rules as *mut c_void;
    let mut options: Options = unsafe { mem::zeroed() };
    options.size = mem::size_of::<Options>();
    options.function = &function;
    let mut engine = ptr::null_mut();
    unsafe {
        let code = ringway_engine_new(ports.as_ptr(), ports.len(), &options, &mut engine);
        if code < 0 || ringway_engine_start(engine) < 0 {
            panic!("{}", CStr::from_ptr(ringway_last_error()).to_string_lossy());
        }
        println!("running; Enter ends it");
        io::stdin().read_line(&mut String::new()).unwrap();
        ringway_engine_free(engine);
    }
}

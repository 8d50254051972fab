#![no_main]

use std::panic;

// The product catches the library's panics: only others end the program, by what the fuzzer does when they reach it.
libfuzzer_sys::fuzz_target!(
    init: {
        panic::set_hook(Box::new(|panic| {
            if panic.location().is_some_and(|place| place.file().contains("strangers")) {
                eprintln!("{panic}");
            }
        }));
    },
    |bytes: &[u8]| {
        trainer::strangers::Target::named("parquet").check(bytes);
    }
);

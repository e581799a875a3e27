//! Models from a server that speaks the hub's API: redirects, ranges, refusals, cut connections, wrong
//! checksums, and two processes at once.

mod server;

use std::{fs, path::Path};

use magcache_hub::{Fetched, Hub, HubError, Name, Part, downloaded, remove};
use server::{Server, file};

const NAME: &str = "owner/model";

fn name(typed: &str) -> Name {
    Name::parse(typed).expect("a name")
}

fn hub(server: &Server, cache: &Path) -> Hub {
    Hub::new(cache.to_owned(), server.address(), None, false)
}

fn pipeline() -> Server {
    Server::start(vec![
        file("model_index.json", b"{}", false),
        file("README.md", b"read me", false),
        file("vae/config.json", b"{\"a\": 1}", false),
        file("vae/diffusion_pytorch_model.safetensors", &vec![7; 1_000_003], true),
        file("vae/diffusion_pytorch_model.fp16.safetensors", &[1; 10], true),
        file("vae/diffusion_pytorch_model.bin", &[2; 10], true),
    ])
}

fn folder(fetched: Fetched) -> std::path::PathBuf {
    match fetched {
        Fetched::Folder(path) => path,
        Fetched::Files(files) => panic!("{files:?}"),
    }
}

#[test]
fn what_is_needed_comes_once_and_then_needs_no_network() {
    let (server, cache) = (pipeline(), tempfile::tempdir().unwrap());
    let hub = hub(&server, cache.path());
    assert_eq!(hub.local(&name(NAME)), None);
    let told = std::sync::Mutex::new((0, 0));
    let root = folder(hub.fetch(&name(NAME), &|done, total| *told.lock().unwrap() = (done, total)).unwrap());
    assert_eq!(fs::read(root.join("vae/diffusion_pytorch_model.safetensors")).unwrap(), vec![7; 1_000_003]);
    let (done, total) = *told.lock().unwrap();
    assert_eq!((done, total), (1_000_003 + 2 + 8, 1_000_003 + 2 + 8));
    for other in
        ["README.md", "vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin"]
    {
        assert!(!root.join(other).exists(), "{other}");
    }
    // The layout of the hub's own client.
    let own = cache.path().join("models--owner--model");
    assert_eq!(fs::read_to_string(own.join("refs/main")).unwrap(), server::COMMIT);
    assert_eq!(root, own.join("snapshots").join(server::COMMIT));
    let link = fs::read_link(root.join("vae/config.json")).unwrap();
    assert!(link.starts_with("../../../blobs"), "{link:?}");
    // Nothing is asked a second time, and nothing at all without a network.
    let asked = server.asked();
    assert_eq!(folder(hub.fetch(&name(NAME), &|_, _| ()).unwrap()), root);
    assert_eq!(server.asked(), asked);
    let offline = Hub::new(cache.path().to_owned(), "http://127.0.0.1:1".to_owned(), None, true);
    assert_eq!(folder(offline.fetch(&name(NAME), &|_, _| ()).unwrap()), root);
    let all = downloaded(cache.path());
    assert_eq!((all[0].repo.as_str(), all[0].bytes), (NAME, total));
    assert!(remove(cache.path(), &name(NAME)).unwrap() && !remove(cache.path(), &name(NAME)).unwrap());
    let error = offline.fetch(&name(NAME), &|_, _| ()).unwrap_err();
    assert!(
        matches!(error, HubError::Offline { .. })
            && error.hint().unwrap().contains("magcache pull owner/model")
    );
}

#[test]
fn a_cut_connection_is_taken_up_where_it_was_cut() {
    let (server, cache) = (pipeline(), tempfile::tempdir().unwrap());
    server.cut_after(300_000, 2);
    let root = folder(hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ()).unwrap());
    assert_eq!(fs::read(root.join("vae/diffusion_pytorch_model.safetensors")).unwrap(), vec![7; 1_000_003]);
    assert!(server.ranges().iter().any(|from| *from >= 300_000), "{:?}", server.ranges());
}

#[test]
fn a_server_that_is_gone_leaves_what_has_come() {
    let (server, cache) = (pipeline(), tempfile::tempdir().unwrap());
    server.end_at(Some(300_000));
    let error = hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ()).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert_eq!(hub(&server, cache.path()).local(&name(NAME)), None, "half of it is not all of it");
    server.end_at(None);
    let before = server.ranges().len();
    folder(hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ()).unwrap());
    assert!(server.ranges()[before..].iter().any(|from| *from > 0), "goes on");
}

#[test]
fn a_wrong_checksum_is_not_kept() {
    for lfs in [true, false] {
        let mut wrong = file("model.safetensors", &[5; 4000], lfs);
        wrong.content[17] = 6;
        let (server, cache) = (Server::start(vec![wrong]), tempfile::tempdir().unwrap());
        let error = hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ()).unwrap_err();
        assert!(
            matches!(&error, HubError::WrongChecksum { file, .. } if file == "model.safetensors"),
            "{error}"
        );
        let blobs = fs::read_dir(cache.path().join("models--owner--model/blobs")).unwrap();
        let left: Vec<_> = blobs.flatten().filter(|blob| blob.metadata().unwrap().len() > 0).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (pipeline(), tempfile::tempdir().unwrap());
    let error = hub(&server, cache.path()).fetch(&name("owner/other"), &|_, _| ()).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
    server.ask_for("secret");
    let error = hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ()).unwrap_err();
    assert!(matches!(error, HubError::Denied { status: 401, .. }), "{error}");
    assert!(error.hint().unwrap().contains("HF_TOKEN"));
    let token = Some("secret".to_owned());
    let hub = Hub::new(cache.path().to_owned(), server.address(), token, false);
    assert!(hub.fetch(&name(NAME), &|_, _| ()).is_ok());
    let gone = Hub::new(cache.path().join("x"), "http://127.0.0.1:1".to_owned(), None, false);
    assert!(matches!(gone.fetch(&name(NAME), &|_, _| ()), Err(HubError::Unreachable { .. })));
}

#[test]
fn two_at_once_download_each_file_once() {
    let (server, cache) = (pipeline(), tempfile::tempdir().unwrap());
    std::thread::scope(|scope| {
        let both =
            [(), ()].map(|()| scope.spawn(|| hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ())));
        let roots = both.map(|one| folder(one.join().unwrap().unwrap()));
        assert_eq!(roots[0], roots[1]);
    });
    let large = server.ranges().len();
    assert!(large <= 3, "{large} transfers of three files");
}

#[test]
fn of_several_files_one_is_named() {
    let files = ["m-Q4_K_M.gguf", "m-Q8_0.gguf"].map(|path| file(path, path.as_bytes(), true));
    let (server, cache) = (Server::start(files.to_vec()), tempfile::tempdir().unwrap());
    let hub = hub(&server, cache.path());
    assert!(matches!(hub.fetch(&name(NAME), &|_, _| ()), Err(HubError::Ambiguous { .. })));
    let Fetched::Files(found) = hub.fetch(&name("owner/model:Q8_0"), &|_, _| ()).unwrap() else { panic!() };
    assert_eq!(fs::read_to_string(&found[0]).unwrap(), "m-Q8_0.gguf");
    assert_eq!(found.len(), 1);
}

#[test]
fn a_file_that_is_wanted_alone_is_not_taken_for_the_model() {
    let (server, cache) = (pipeline(), tempfile::tempdir().unwrap());
    let hub = hub(&server, cache.path());
    let wanted = name("owner/model:diffusion_pytorch_model.safetensors").of(Part::File);
    let Fetched::Files(found) = hub.fetch(&wanted, &|_, _| ()).unwrap() else { panic!() };
    assert_eq!(found.len(), 1);
    assert_eq!(fs::metadata(&found[0]).unwrap().len(), 1_000_003);
    // The file and the configuration beside it.
    assert_eq!(server.ranges().len(), 2);
    let offline = Hub::new(cache.path().to_owned(), "http://127.0.0.1:1".to_owned(), None, true);
    assert_eq!(offline.local(&wanted), Some(Fetched::Files(found)));
    assert_eq!(offline.local(&name(NAME)), None, "the rest of the model is not there");
    assert_eq!(offline.local(&name(NAME).of(Part::File)), None, "which of the files is not known");
    let error = offline.fetch(&name(NAME), &|_, _| ()).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    // The model completes it, and another file of it needs no network then.
    let root = folder(hub.fetch(&name(NAME), &|_, _| ()).unwrap());
    assert!(root.join("model_index.json").exists());
    assert_eq!(offline.local(&name(NAME)), Some(Fetched::Folder(root)));
    let none = offline.fetch(&name(NAME).of(Part::Tokenizer), &|_, _| ()).unwrap_err();
    assert!(matches!(none, HubError::Offline { .. }), "{none}");
    let none = hub.fetch(&name(NAME).of(Part::Tokenizer), &|_, _| ()).unwrap_err();
    assert!(matches!(none, HubError::NoTokenizer { .. }), "{none}");
}

#[test]
fn a_listing_may_not_leave_the_folder() {
    let (server, cache) =
        (Server::start(vec![file("../../evil.safetensors", b"x", true)]), tempfile::tempdir().unwrap());
    let error = hub(&server, cache.path()).fetch(&name(NAME), &|_, _| ()).unwrap_err();
    assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
}

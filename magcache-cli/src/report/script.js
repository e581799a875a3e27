'use strict';
// Plays all lanes as one, and shows how far each is from the dense one of its group. Nothing here is needed to read the page.
(() => {
  const find = id => document.getElementById(id);
  const groups = [...document.querySelectorAll('.lanes')].map(group => [...group.querySelectorAll('.lane')].map(lane => ({
    shown: lane.querySelector('.shown'),
    canvas: lane.querySelector('canvas'),
    video: lane.querySelector('video') !== null,
    frames: Number(group.dataset.frames),
    fps: Number(group.dataset.fps),
  })));
  const lanes = groups.flat(), videos = lanes.filter(lane => lane.video);
  // The longest video tells the time.
  const clock = videos.reduce((most, lane) => (most && most.frames >= lane.frames ? most : lane), undefined);
  const video = clock !== undefined;
  const frames = video ? Number(find('playback').dataset.frames) : 1;
  const fps = video ? Number(find('playback').dataset.fps) : 1;
  let frame = 0, playing = false, differing = false;

  for (const part of document.querySelectorAll('[hidden]')) if (!part.matches('canvas')) part.hidden = false;
  for (const lane of videos) {
    lane.shown.controls = false;
    // In a video that is written in the page, browsers do not seek; in the same bytes as a file they do.
    const bytes = Uint8Array.from(atob(lane.shown.src.split(',')[1]), letter => letter.charCodeAt(0));
    lane.shown.src = URL.createObjectURL(new Blob([bytes], { type: 'video/mp4' }));
  }

  const until = (shown, event) => new Promise(done => {
    for (const name of [event, 'error']) shown.addEventListener(name, done, { once: true });
  });

  const seek = async (lane, to) => {
    const { shown } = lane;
    // The middle of a frame, so that rounding cannot show its neighbour.
    const time = (Math.min(to, lane.frames - 1) + 0.5) / lane.fps;
    if (shown.error) return;
    if (shown.readyState < 2) await until(shown, 'loadeddata');
    if (Math.abs(shown.currentTime - time) < 0.1 / lane.fps) return;
    const there = until(shown, 'seeked');
    shown.currentTime = time;
    await there;
  };

  const pixels = lane => {
    const { width, height } = lane.canvas;
    const surface = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
    surface.drawImage(lane.shown, 0, 0, width, height);
    return surface.getImageData(0, 0, width, height);
  };

  const drawDifference = () => {
    const gain = Number(find('gain').value);
    for (const group of groups) {
      const reference = pixels(group[0]).data;
      for (const lane of group) {
        const image = pixels(lane), data = image.data;
        for (let i = 0; i < data.length; i += 4) {
          for (let c = i; c < i + 3; c++) data[c] = gain * Math.abs(data[c] - reference[c]);
          data[i + 3] = 255;
        }
        lane.canvas.getContext('2d').putImageData(image, 0, 0);
      }
    }
  };

  const tell = () => {
    if (!video) return;
    find('frame').value = frame;
    find('at').value = `${frame + 1} of ${frames}`;
  };

  // One after the other: a frame that is asked for while another one is being sought replaces the ones that wait.
  let wanted = null, seeking = null;
  const show = to => {
    wanted = Math.max(0, Math.min(frames - 1, to));
    seeking ??= (async () => {
      while (wanted !== null) {
        const now = wanted;
        wanted = null;
        await Promise.all(videos.map(lane => seek(lane, now)));
        frame = now;
        tell();
        if (differing) drawDifference();
      }
      seeking = null;
    })();
    return seeking;
  };

  const pause = () => {
    playing = false;
    if (!video) return;
    for (const lane of videos) lane.shown.pause();
    find('play').textContent = 'Play';
  };

  const now = () => Math.min(frames - 1, Math.floor(clock.shown.currentTime * fps + 1e-6));

  // The videos run by themselves, and whoever falls behind is put in place.
  const follow = () => {
    if (!playing || differing) return;
    for (const lane of videos) {
      const behind = Math.abs(lane.shown.currentTime - clock.shown.currentTime);
      if (behind > 0.75 / fps && behind < lane.frames / fps / 2) lane.shown.currentTime = clock.shown.currentTime;
    }
    frame = now();
    tell();
    requestAnimationFrame(follow);
  };

  // A difference is one of equal frames: there the lanes go from frame to frame together.
  const march = async () => {
    while (playing && differing) {
      const begun = performance.now();
      await show((frame + 1) % frames);
      const rest = 1000 / fps / Number(find('speed').value) - (performance.now() - begun);
      await new Promise(done => setTimeout(done, Math.max(0, rest)));
    }
  };

  const play = async () => {
    playing = true;
    find('play').textContent = 'Pause';
    if (differing) return march();
    await show(frame === frames - 1 ? 0 : frame);
    if (!playing) return;
    for (const lane of videos) {
      lane.shown.playbackRate = Number(find('speed').value);
      lane.shown.play().catch(() => {});
    }
    follow();
  };

  const toggle = () => { if (!video) return; if (playing) { pause(); show(now()); } else play(); };
  const step = by => { if (video) { pause(); show((wanted ?? now()) + by); } };

  const setDifference = on => {
    const resume = playing;
    pause();
    differing = on;
    find('difference').checked = on;
    for (const lane of lanes) {
      lane.canvas.hidden = !on;
      lane.shown.classList.toggle('covered', on);
    }
    show(video ? now() : 0).then(() => { if (resume) play(); });
  };

  find('difference').addEventListener('change', event => setDifference(event.target.checked));
  find('gain').addEventListener('input', event => {
    find('by').value = `${event.target.value}×`;
    if (differing) drawDifference();
  });
  if (video) {
    find('play').addEventListener('click', toggle);
    find('back').addEventListener('click', () => step(-1));
    find('on').addEventListener('click', () => step(1));
    find('frame').addEventListener('input', event => { pause(); show(Number(event.target.value)); });
    find('speed').addEventListener('change', event => {
      for (const lane of videos) lane.shown.playbackRate = Number(event.target.value);
    });
  }

  const keys = {
    ' ': toggle,
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    Home: () => step(-frames),
    End: () => step(frames),
    d: () => setDifference(!differing),
  };
  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, act = keys[key];
    // What a control does with a key of its own comes first.
    const own = key === 'd' ? 'select' : key === ' ' ? 'button, input, select, summary, a' : 'input, select, .scroll';
    if (!act || event.target.closest(own)) return;
    event.preventDefault();
    act();
  });

  // Paper shows what a click would.
  let closed = [];
  addEventListener('beforeprint', () => {
    closed = [...document.querySelectorAll('details:not([open])')];
    for (const part of closed) part.open = true;
  });
  addEventListener('afterprint', () => { for (const part of closed) part.open = false; });
})();

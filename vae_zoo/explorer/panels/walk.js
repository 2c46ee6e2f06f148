// The sliders of one run. `element`, `server`, `watch` are given by gr.HTML; the functions of `server` are in walk.py.
const find = what => element.querySelector(what), all = what => [...element.querySelectorAll(what)];
let walk, past = [], busy = false, again = false;

function values() {
  const found = {};
  for (const slider of all('input[data-dim]')) (found[slider.dataset.block] ??= [])[slider.dataset.dim] = +slider.value;
  for (const choice of all('select')) found[choice.dataset.block] = [+choice.value];
  return found;
}

function show(wanted) {
  for (const slider of all('input[data-dim]')) {
    slider.value = wanted[slider.dataset.block][slider.dataset.dim];
    slider.closest('.dim').querySelector('output').textContent = (+slider.value).toFixed(2);
  }
  for (const choice of all('select')) choice.value = wanted[choice.dataset.block][0];
}

function picture(source, suffix = 'png') {
  find('img.now').src = find('a.save').href = source;
  find('a.save').download = find('a.save').download.replace(/\w+$/, suffix);
  find('a.save').textContent = suffix.toUpperCase();
}

async function ask(what, more = {}) {
  const answer = await server[what]({image: walk.image, values: values(), ...more});
  find('.said').textContent = answer.error ?? '';
  return answer;
}

async function draw() {  // one question at a time; the last values are always asked for
  again = true;
  if (busy) return;
  busy = true;
  try {
    while (again) {
      again = false;
      const answer = await ask('draw');
      if (answer.src) picture(answer.src);
    }
  } finally { busy = false; }
}

function link() {  // the address of the page holds all settings
  const url = new URL(location);
  url.searchParams.set('image', walk.image);
  const changed = Object.entries(past.at(-1)).filter(([name, now]) => now.join() !== walk.own[name].join());
  const text = changed.map(([name, now]) => `${name}:${now.map(v => +v.toFixed(3))}`).join(';');
  text ? url.searchParams.set(`run${walk.run}`, text) : url.searchParams.delete(`run${walk.run}`);
  history.replaceState(history.state, '', url);
}

function record() {
  past.push(values());
  link();
}

function begin() {
  if (!find('.walk')) return;
  walk = JSON.parse(find('.walk').dataset.walk);
  show(walk.own);
  past = [values()];
  walk.own = past[0];  // as the sliders hold them
  show(walk.values);
  if (JSON.stringify(values()) !== JSON.stringify(past[0])) past.push(values());
  link();
}

const actions = {
  reset() { show(walk.own); draw(); record(); },
  undo() { if (past.length > 1) past.pop(); show(past.at(-1)); draw(); link(); },
  async copy() {
    const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    find('.said').textContent = copied ? 'link copied' : 'the address of this page is the link';
  },
  async save() {
    const answer = await ask('save'), saved = document.createElement('a');
    if (answer.src) Object.assign(saved, {href: answer.src, download: 'codes.npz'}).click();
  },
  async play(button) {
    const answer = await ask('play', {block: button.dataset.block, dim: +button.dataset.dim});
    if (answer.src) picture(answer.src, 'webp');
  },
};

element.addEventListener('click', e => {
  const button = e.target.closest('[data-do]');
  if (button) actions[button.dataset.do](button);
});
element.addEventListener('input', e => {
  if (e.target.type !== 'range') return;
  e.target.closest('.dim').querySelector('output').textContent = (+e.target.value).toFixed(2);
  draw();
});
element.addEventListener('change', async e => {
  if (e.target.type === 'range') return record();
  const classes = all('select').map(choice => +choice.value), before = {};
  for (const choice of all('select')) before[choice.dataset.block] = past.at(-1)[choice.dataset.block];
  const answer = await ask('choose', {values: {...values(), ...before}, classes});
  if (answer.values) show(answer.values);
  if (answer.src) picture(answer.src);
  record();
});
watch('value', begin);
begin();

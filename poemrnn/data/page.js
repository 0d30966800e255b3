'use strict'
// What a page of poemrnn runs: a network that reads, a writer, a desk. Chapter 07 explains it.

// ---- The network. A matrix is rows of 8-bit weights, the last of a row being the bias, and a scale for each row.

function unpack(facts, base64) {
  const binary = atob(base64), bytes = new Uint8Array(binary.length), {buffer} = bytes
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i)
  let scale = 0, weight = 4 * facts.shapes.reduce((sum, [rows]) => sum + rows, 0)
  const matrices = facts.shapes.map(([rows, columns]) => {
    const scales = new Float32Array(buffer, scale, rows), weights = new Int8Array(buffer, weight, rows * columns)
    scale += 4 * rows
    weight += rows * columns
    return {scales, weights, columns}
  })
  const embedding = facts.embedded ? matrices.shift() : null
  return {...facts, embedding, fc: matrices.pop(), layers: matrices}
}

function times({scales, weights, columns}, x, h) { // x may be the number of a character, too
  const one_hot = typeof x === 'number', v = one_hot ? h : Float64Array.of(...x, ...h)
  const z = new Float64Array(scales.length)
  for (let row = 0; row < z.length; row++) {
    const first = row * columns, at = first + columns - 1 - v.length
    let a = weights[at + v.length], b = one_hot ? weights[first + x] : 0, c = 0, d = 0, j = 0
    for (; j < v.length - 3; j += 4) { // four sums at a time are quicker than one
      a += weights[at + j] * v[j]
      b += weights[at + j + 1] * v[j + 1]
      c += weights[at + j + 2] * v[j + 2]
      d += weights[at + j + 3] * v[j + 3]
    }
    for (; j < v.length; j++) a += weights[at + j] * v[j]
    z[row] = scales[row] * (a + b + c + d)
  }
  return z
}

function step(net, id, state) {
  let x = net.embedding ? row(net.embedding, id) : id
  return net.layers.map((layer, k) => {
    const [h, c] = state[k].map(part => part.slice()), z = times(layer, x, state[k][0]), n = h.length
    for (let j = 0; j < n; j++) {
      const [i, f, g, o] = [z[j], z[n + j], z[2 * n + j], z[3 * n + j]]
      c[j] = sigmoid(f) * c[j] + sigmoid(i) * Math.tanh(g)
      h[j] = sigmoid(o) * Math.tanh(c[j])
    }
    x = h
    return [h, c]
  })
}

function sigmoid(z) { return 1 / (1 + Math.exp(-z)) }
function row({scales, weights, columns}, id) {
  return Float64Array.from(weights.subarray(id * columns, id * columns + columns - 1), weight => scales[id] * weight)
}
function empty(net) { return net.layers.map(() => [new Float64Array(net.n_hidden), new Float64Array(net.n_hidden)]) }

// ---- Chance.

function dice(number) {
  let state = number % 2147483646 + 1
  const next = () => (state = 48271 * state % 2147483647) / 2147483647
  for (let i = 0; i < 10; i++) next()
  return next
}

function draw(scores, temperature, random) {
  const best = scores.reduce((a, b) => Math.max(a, b))
  if (best === -Infinity) return -1
  if (temperature === 0) return scores.indexOf(best)
  let sum = 0
  const ends = scores.map(score => sum += Math.exp((score - best) / temperature)), point = random() * sum
  return ends.findIndex(end => end > point)
}

// ---- A text, and what the network thought along it. No state is ever changed, so one can go back to any.

class Reading {
  constructor(net) {
    Object.assign(this, {net, chars: [], surprise: [], states: [empty(net)]})
    for (const char of net.opening) this.read(net.chars.indexOf(char))
    Object.assign(this, {chars: [], surprise: [], states: this.states.slice(-1)})
  }
  get text() { return this.chars.join('') }
  scores(at = this.chars.length) { // of what comes after `at` characters
    const scores = times(this.net.fc, this.states[at].at(-1)[0], []), never = this.net.chars.indexOf('\ufffd')
    if (never >= 0) scores[never] = -Infinity
    return scores
  }
  read(id, char = this.net.chars[id]) { // one that the network doesn't know (-1) stays in the text, but isn't read
    this.surprise.push(id < 0 ? 0 : -Math.log(chances(this.scores())[id]))
    this.states.push(id < 0 ? this.states.at(-1) : step(this.net, id, this.states.at(-1)))
    this.chars.push(char)
  }
  back(length) { this.chars.length = this.surprise.length = length; this.states.length = length + 1 }
}

function chances(scores) {
  const best = scores.reduce((a, b) => Math.max(a, b)), p = scores.map(score => Math.exp(score - best))
  const sum = p.reduce((a, b) => a + b)
  return p.map(x => x / sum)
}

function nearest(net, char) { // the number of a character, or of the most similar one; -1 if there is none
  const typed = {'’': "'", '‘': "'", '“': '"', '”': '"', '–': '-', '—': '-', '\u00a0': ' ', '\t': ' '}
  const plain = typed[char] || char.normalize('NFKD')[0]
  const alike = [char, plain, plain.toLowerCase(), plain.toUpperCase(), '\ufffd']
  return net.chars.indexOf(alike.find(other => net.chars.includes(other)))
}

// ---- Wishes: first letters, words to avoid.

function firstLetter(text, letters) { // the characters that may come next; null: any; []: the poem is to end
  const lines = text.split('\n'), titled = lines[1] === '' || lines.length < 2
  if (!letters.length || lines.length < 2 || lines.at(-1)) return null
  if (lines.length === 2) return ['\n']
  const done = lines.slice(titled ? 2 : 0).filter(line => line).length
  if (done === letters.length) return []
  const letter = letters[done], stanza = text.endsWith('\n\n') ? [] : ['\n']
  return [letter, letter.toLowerCase(), letter.toUpperCase(), ...stanza]
}

function forbidden(words) { // finds one of them at the end of a text, as soon as the word is over
  const quoted = words.map(word => word.trim().replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).filter(word => word)
  if (!quoted.length) return null
  const letter = '\\p{L}\\p{M}\\p{N}', whole = word => `(?<![${letter}])${word}[^${letter}]`
  const each = quoted.map(word => /\p{Ideographic}/u.test(word) ? word : whole(word))
  return new RegExp(`(?:${each.join('|')})$`, 'iu')
}

// ---- The writer: a character at a time, until the poem ends.

function* write(reading, {temperature = .6, letters = [], words = [], size = 2000} = {}, random) {
  const {net} = reading, avoid = forbidden(words), tried = {}, from = reading.chars.length
  for (let n = 0; n < size; n++) {
    const scores = reading.scores(), may = firstLetter(reading.text, letters)
    const never = id => { scores[id] = -Infinity }
    if (!n && reading.text.endsWith('\n\n')) never(net.chars.indexOf('\n')) // a stanza was asked for
    if (may) net.chars.forEach((char, id) => may.includes(char) || never(id))
    for (const [id, count] of Object.entries(tried[reading.text] || {})) if (count > 2) never(id)
    const id = draw(scores, temperature, random)
    if (id < 0) return
    reading.read(id)
    const word = avoid && avoid.exec(reading.chars.slice(-80).join(''))
    if (word) { // go back to where it began; after the third time, its second letter has no chance there
      const end = reading.chars.length, begin = Math.max(from, end - [...word[0]].length)
      const second = Math.min(begin + 1, end - 1)
      const before = reading.chars.slice(0, second).join(''), id = net.chars.indexOf(reading.chars[second])
      tried[before] = {...tried[before], [id]: (tried[before]?.[id] || 0) + 1}
      reading.back(begin)
    }
    yield
    if (reading.text.endsWith('\n\n\n')) return
  }
}

function* nextLines(reading, wishes, random, n = 5) { // yields each when it is there, and undefined before
  const from = reading.chars.length, found = []
  for (let draft = 0; draft < 4 * n && found.length < n; draft++) {
    for (const _ of write(reading, wishes, random)) {
      yield
      if (/\S.*\n$/.test(reading.chars.slice(from).join(''))) break
    }
    const line = reading.chars.slice(from).join('')
    reading.back(from)
    if (found.some(other => other.trim() === line.trim())) continue
    found.push(line)
    yield line
  }
}

// ---- Where a line comes from, if the poems are in the page.

function folded(text) { // its words in lower case
  return (text.toLowerCase().match(/\p{Script=Han}|(?:(?!\p{Script=Han})[\p{L}\p{M}\p{N}])+/gu) || []).join(' ')
}

function sources(poems) { return {poems, all: poems.map(poem => ` ${folded(poem)} `).join('\n')} }

function trace({poems, all}, text, shortest) { // sentences about the long stretches of `text` that stand in the poems
  const words = folded(text).split(' '), found = []
  for (let i = 0, end = 0; i < words.length; i = Math.max(i + 1, end)) {
    const stretch = () => ` ${words.slice(i, end).join(' ')} `
    for (end = i + 1; end < words.length && stretch().length < shortest + 2;) end++
    let place = stretch().length < shortest + 2 ? -1 : all.indexOf(stretch())
    if (place < 0) { end = 0; continue }
    while (end < words.length && all.includes(` ${words.slice(i, end + 1).join(' ')} `)) end++
    place = all.indexOf(stretch())
    const number = all.slice(0, place).split('\n').length - 1, lines = poems[number].trim().split('\n')
    let before = all.slice(all.lastIndexOf('\n', place) + 1, place + 1).trim().split(' ').filter(word => word).length
    const line = lines.find(line => (before -= folded(line).split(' ').filter(word => word).length) < 0)
    found.push(`“${words.slice(i, end).join(' ')}” also stands in “${lines[0]}”: ${line.trim()}`)
  }
  return found
}

// ---- The desk: what the buttons do.

function desk() {
  const $ = id => document.getElementById(id), read = id => JSON.parse($(id).textContent)
  const element = (kind, properties) => Object.assign(document.createElement(kind), properties)
  const isBusy = () => document.body.classList.contains('busy')
  const facts = read('facts'), net = unpack(facts, $('weights').textContent), reading = new Reading(net), earlier = []
  const known = $('poems') && sources(read('poems'))
  let running = 0, begun = '', ended = null
  const say = text => { $('status').textContent = text }

  function show() {
    $('text').value = reading.text
    mirror()
  }
  function mirror() { // below the box lies the same text: it makes the box as high as it must be, and has the shades
    const text = $('text').value
    if (!$('shaded').checked || text !== reading.text) return $('mirror').replaceChildren(text + '\n')
    const level = i => [.5, .2, .1, .05, .01].filter(chance => Math.exp(-reading.surprise[i]) < chance).length
    const spans = reading.chars.map((char, i) => element('span', {className: 's' + level(i), textContent: char}))
    $('mirror').replaceChildren(...spans, '\n')
  }
  async function run(work, each) { // in slices, so that the page stays awake, shown unless `each` is; false if stopped
    const mine = ++running
    busy(true)
    for (let part, since = performance.now(); !(part = work.next()).done;) {
      if (each) each(part.value)
      if (performance.now() - since < 12) continue
      if (!each) show()
      await new Promise(resolve => setTimeout(resolve))
      if (mine !== running) return false
      since = performance.now()
    }
    show()
    busy(false)
    return true
  }
  function busy(on) {
    document.body.classList.toggle('busy', on)
    $('text').readOnly = on
    for (const button of document.querySelectorAll('button')) button.disabled = on && button.id !== 'write'
    $('write').textContent = on ? 'Stop' : 'Write on'
    if (!on) $('back').disabled = !earlier.length
  }
  function stop() { running++; show(); busy(false); say('Stopped.') }

  function* follow(text) { // read what stands in the box; what was read before needn't be read again
    const chars = [...text], same = chars.findIndex((char, i) => reading.chars[i] !== char)
    reading.back(same < 0 ? chars.length : same)
    for (const char of chars.slice(reading.chars.length)) {
      reading.read(nearest(net, char), char)
      yield
    }
  }
  function strangers(text) { return [...new Set(text)].filter(char => !net.chars.includes(char)) }
  function wishes() {
    const letters = [...$('letters').value].filter(char => /[\p{L}\p{N}]/u.test(char))
    const known = letters.map(char => net.chars[nearest(net, char)]).filter(char => char)
    return {temperature: +$('temperature').value, letters: known, words: $('words').value.split(/[,;\n]/)}
  }
  function chance() { // from the number that stands there, or from a new one
    if (!$('keep').checked) $('number').value = 1 + Math.floor(Math.random() * 999999)
    return dice(Math.abs(Math.trunc(+$('number').value)) || 1)
  }
  function remember() { earlier.push($('text').value); $('lines').replaceChildren(); say('') }

  async function writeOn(text) {
    remember()
    const random = chance(), how = wishes()
    if (!await run(follow(text)) || !await run(write(reading, how, random))) return
    const end = [...reading.text.trimEnd()].length
    reading.back(Math.max(end, Math.min([...text].length, reading.chars.length)))
    ended = reading.text
    show()
    report(strangers(text + $('letters').value))
  }
  function report(unknown) {
    const loss = reading.surprise.reduce((a, b) => a + b, 0) / (reading.chars.length || 1)
    const sentences = [`This is number ${$('number').value}, ${reading.chars.length} characters.`]
    const choices = `It was as unsure as among ${Math.exp(loss).toFixed(1)} equally likely characters.`
    const strange = `The network doesn't know ${unknown.join(' ')}: it reads the most similar sign, or none.`
    if ($('shaded').checked) sentences.push(choices)
    if (unknown.length) sentences.push(strange)
    const copied = known ? trace(known, reading.text, facts.shortest) : []
    sentences.push(...copied)
    const own = `No stretch of ${facts.shortest} characters stands in the poems that the network learned from.`
    if (known && !copied.length) sentences.push(own)
    say(sentences.join(' '))
  }
  async function fiveLines() {
    $('lines').replaceChildren()
    const random = $('keep').checked ? chance() : dice(Math.floor(Math.random() * 1e9))
    const text = $('text').value.replace(/\n{3,}$/, '\n\n'), last = text.split('\n').at(-1)
    if (!await run(follow(text))) return
    const add = line => {
      if (line === undefined) return
      const stanza = /^\n*\n\n\S/.test((last && '\n') + line) && text.trim() ? '(new stanza) ' : ''
      const whole = stanza + (line[0] === '\n' ? '' : last) + line.trim()
      const button = element('button', {textContent: line.trim() ? whole : '(the poem ends here)', disabled: true})
      button.onclick = () => {
        remember()
        $('text').value = text + (line.trim() ? line : '')
        mirror()
        if (line.trim()) fiveLines()
      }
      const item = document.createElement('li')
      item.append(button)
      $('lines').append(item)
    }
    if (!await run(nextLines(reading, wishes(), random), add)) {
      reading.back([...text].length)
      return show()
    }
    say(`${$('lines').children.length} lines to choose from.`)
    const first = $('lines').querySelector('button')
    if (first) first.focus({preventScroll: true})
  }
  function explain() { // what was expected in place of the character before the cursor
    const at = [...$('text').value.slice(0, $('text').selectionEnd)].length - 1
    const idle = document.activeElement !== $('text') || !$('shaded').checked || isBusy()
    if (idle || at < 0 || $('text').value !== reading.text) return
    const name = char => ({' ': 'space', '\n': 'line end'})[char] || char
    const percent = x => (100 * x).toFixed(x < .01 ? 1 : 0) + ' %'
    const p = chances(reading.scores(at)), id = nearest(net, reading.chars[at])
    const others = [...p.keys()].sort((a, b) => p[b] - p[a]).filter(other => other !== id).slice(0, 3)
    const chance = `${name(reading.chars[at])}: chance ${percent(p[id] || 0)}.`
    say(`${chance} Others: ${others.map(other => `${name(net.chars[other])} ${percent(p[other])}`).join(', ')}.`)
  }

  $('write').onclick = () => {
    const text = $('text').value, stanza = text && text === ended ? '\n\n' : '' // after the end, one more
    return isBusy() ? stop() : writeOn(text + stanza)
  }
  $('another').onclick = () => writeOn(begun)
  $('five').onclick = fiveLines
  $('back').onclick = () => {
    $('lines').replaceChildren()
    $('text').value = earlier.pop()
    mirror()
    busy(false)
    say('')
  }
  $('clear').onclick = () => { remember(); begun = $('text').value = ''; mirror(); busy(false); $('text').focus() }
  $('text').oninput = () => { begun = $('text').value; mirror() }
  $('shaded').onchange = async () => {
    if (!isBusy()) await run(follow($('text').value))
    mirror()
  }
  $('number').oninput = () => { $('keep').checked = true }
  $('temperature').oninput = () => { $('degrees').textContent = $('temperature').value }
  $('copy').onclick = async () => {
    $('text').select()
    try { await navigator.clipboard.writeText($('text').value) } catch { document.execCommand('copy') }
    say('Copied.')
  }
  $('print').onclick = () => print()
  $('save').onclick = () => {
    const signed = `${$('text').value.trim()}\n\n(${$('who').textContent.trim().replace(/\s+/g, ' ')})\n`
    const href = URL.createObjectURL(new Blob([signed], {type: 'text/plain'}))
    const link = element('a', {href, download: 'poem.txt'})
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 1000)
  }
  document.onselectionchange = explain
  document.onkeydown = event => { if (event.key === 'Escape' && isBusy()) stop() }
  writeOn('')
}

if (typeof document !== 'undefined') desk()

// The few signs of Markdown that an app's texts use: headings, bold, code, links and paragraphs.
export const markdown = {
  name: 'sly-markdown',
  props: { data: String, options: Object },
  computed: {
    html() {
      return (this.data || '').split(/\n{2,}/).map(paragraph).join('');
    },
  },
  template: '<div class="markdown" v-html="html"></div>',
};

function paragraph(text) {
  const heading = /^(#{1,6}) (.*)$/.exec(text);
  const tag = heading ? `h${heading[1].length}` : 'p';
  return `<${tag}>${inline(heading ? heading[2] : text)}</${tag}>`;
}

function inline(text) {
  const safe = text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/"/g, '&quot;');
  return safe
    .replace(/\*\*(.+?)\*\*/g, '<b>$1</b>')
    .replace(/`(.+?)`/g, '<code>$1</code>')
    .replace(/\[(.+?)\]\((https?:[^)]+)\)/g, '<a href="$2" target="_blank">$1</a>');
}

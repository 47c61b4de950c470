// The log of a task, asked for every two seconds while it is shown.
const LINES = 300;

export const logs = {
  name: 'sly-logs',
  props: { taskId: Number },
  data: () => ({ lines: [] }),
  mounted() {
    this.read();
    this.timer = setInterval(this.read, 2000);
  },
  beforeDestroy() {
    clearInterval(this.timer);
  },
  methods: {
    async read() {
      const { data } = await window.slyPlatform.api.post('tasks.log.download', { id: this.taskId });
      this.lines = data.slice(-LINES);
    },
    text: (line) => line.message || line.msg || JSON.stringify(line),
  },
  template: `
    <div class="logs">
      <div v-for="(line, index) in lines" :key="index">{{ text(line) }}</div>
      <div v-if="!lines.length">The task has written nothing yet.</div>
    </div>`,
};

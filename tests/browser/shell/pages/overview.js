// The first page: what runs here, and where to begin.
import { all, show } from './platform.js';

const overview = {
  props: { account: Object, call: Function },
  data: () => ({ projects: [], modules: [], starting: '' }),
  async created() {
    this.projects = await all(this.call, 'projects.list', { workspaceId: this.account.workspace });
    this.modules = await all(this.call, 'ecosystem.list', {});
  },
  computed: {
    sessions() {
      return this.account.sessions.filter(({ name }) => ['Train HRDA', 'Serve HRDA'].includes(name)).reverse();
    },
  },
  methods: {
    async start(name) {
      this.starting = name;
      try {
        const moduleId = this.modules.find((module) => module.name === name).id;
        const [task] = await this.call('tasks.run.app', { workspaceId: this.account.workspace, moduleId, params: { state: {} } });
        location.href = `/net/${task.meta.sessionToken}/`;
      } catch (error) {
        this.$notify.error({ title: `${name} did not start`, message: error.message, duration: 0 });
        this.starting = '';
      }
    },
  },
  template: `
    <div>
      <p>
        Both apps run on this machine, on a small stand-in of the platform: nothing leaves it, and no account is needed.
        Train a model on synthetic cracks and on photos without labels, deploy it, and let it predict on a photo.
      </p>
      <ol class="steps">
        <li>
          Open <b>Train HRDA</b> under Apps, and press <i>Select</i> on each card when it is filled in. The source is chosen already;
          choose <i>Photos without labels</i> as the target and <i>Labelled photos</i> as the validation. Take the model
          <i>ResNet-10-T (quick)</i>, the class as it is, and the preset <i>Quick</i>. ImageNet weights are downloaded; where there is no
          way to the internet, add these lines at the end of <i>All settings</i>, so that the network learns from nothing, at a higher
          rate: <pre>model: {pretrained: false}\noptimisation: {learning_rate: 0.002, head_factor: 1}</pre>
          Then press <i>Start</i>. It takes some minutes on a CPU; <i>Stop</i> keeps what was trained until then.
        </li>
        <li>Open <b>Serve HRDA</b>, press <i>Look for new experiments</i> under <i>Custom models</i>, choose yours, and press <i>SERVE</i>.</li>
        <li>Open a project below, choose the deployed session, and press <i>Predict</i> at a photo.</li>
      </ol>
      <div class="columns">
        <sly-card title="Apps" subtitle="A training session ends by itself once its model is saved">
          <div v-for="session in sessions" :key="session.id" class="row">
            <a :href="'/net/' + session.token + '/'">{{ session.name }}</a>
            <span>session {{ session.id }}</span>
            <el-tag :type="session.open ? 'success' : 'gray'">{{ session.open ? 'running' : 'ended' }}</el-tag>
          </div>
          <div class="row">
            <el-button v-for="name in ['Train HRDA', 'Serve HRDA']" :key="name" size="small" :loading="starting === name"
              :disabled="starting !== ''" @click="start(name)">Start another {{ name }}</el-button>
          </div>
        </sly-card>
        <sly-card title="Projects" subtitle="Images with their labels; predictions are drawn here">
          <div v-for="project in projects" :key="project.id" class="row">
            <a :href="'/projects/' + project.id + '/datasets'">{{ project.name }}</a>
            <span>{{ project.imagesCount || project.itemsCount }} images</span>
          </div>
        </sly-card>
        <sly-card title="Files" subtitle="Experiments: checkpoints, reports, settings">
          <div class="row"><a href="/files/?path=/experiments/">Team Files</a></div>
        </sly-card>
      </div>
    </div>`,
};

show('HRDA on this machine', overview);

"""Faults made by hand in the method's core; each must be caught by some test.

    python tests/mutations.py              # all, in minutes
    python tests/mutations.py club kd      # those whose names hold one of the words

A fault is one replacement in one file. It is made in a copy of the package, never in place, and
the tests of that part are run on the copy until the first fails. A fault that no test notices is
reported, and the status is 1.
"""

import io
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CAUGHT, SURVIVED, BROKEN = "caught", "SURVIVED", "BROKEN: its text is not in the file once"


class Fault(NamedTuple):
    """What is wrong, where, what stands there, what shall stand there, and who should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = [
    # scores
    Fault("msp without its sign", "scores.py", "-logits.softmax(dim=1).amax(dim=1)",
          "logits.softmax(dim=1).amax(dim=1)", "test_scores"),
    Fault("msp over the batch", "scores.py", "logits.softmax(dim=1).amax(dim=1)",
          "logits.softmax(dim=0).amax(dim=1)", "test_scores"),
    Fault("energy without its sign", "scores.py", "-temperature * torch.logsumexp",
          "temperature * torch.logsumexp", "test_scores"),
    Fault("energy divided twice", "scores.py", "-temperature * torch.logsumexp",
          "-1 / temperature * torch.logsumexp", "test_scores"),
    Fault("entropy without its sign", "scores.py", "-(log_p.exp() * log_p).sum(dim=1)",
          "(log_p.exp() * log_p).sum(dim=1)", "test_scores"),
    Fault("k-NN score: one neighbour early", "scores.py", ".topk(k, dim=1).indices[:, -1]",
          ".topk(k, dim=1).indices[:, max(0, k - 2)]", "test_scores"),
    Fault("k-NN score: the first of k", "scores.py", ".topk(k, dim=1).indices[:, -1]",
          ".topk(k, dim=1).indices[:, 0]", "test_scores"),
    Fault("k-NN score squared", "scores.py", "(queries - bank[neighbours]).norm(dim=1)",
          "(queries - bank[neighbours]).square().sum(dim=1)", "test_scores"),
    Fault("Mahalanobis to the farthest mean", "scores.py", "torch.cdist(features.double() @ whiten, means).amin(dim=1)",
          "torch.cdist(features.double() @ whiten, means).amax(dim=1)", "test_scores"),
    Fault("Mahalanobis with one common mean", "scores.py", "residuals = rows - means[members]",
          "residuals = rows - rows.mean(0)", "test_scores"),
    # metrics
    Fault("AUROC: ties won by OOD", "metrics.py", "(2 * beaten + negatives)",
          "(2 * beaten + 2 * negatives)", "test_metrics"),
    Fault("FPR95: the threshold after", "metrics.py", "first = (tpr >= 0.95).argmax(1)",
          "first = (tpr > 0.95).argmax(1)", "test_metrics"),
    Fault("FPR95: ties at the threshold dropped", "metrics.py",
          "return fpr[np.arange(len(fpr)), first]",
          "return np.pad(fpr, ((0, 0), (1, 0)))[np.arange(len(fpr)), first]", "test_metrics"),
    Fault("positive classes swapped", "metrics.py", 'if (own_positive or positive) == "ood":',
          'if (own_positive or positive) == "id":', "test_metrics"),
    Fault("AUPR of the other class", "metrics.py", '"aupr_in": (_aupr, "id")',
          '"aupr_in": (_aupr, "ood")', "test_metrics"),
    Fault("average precision without its first step", "metrics.py", "np.diff(recall, prepend=0.0, axis=1)",
          "np.diff(recall, prepend=recall[:, :1], axis=1)", "test_metrics"),
    Fault("interval with n degrees of freedom", "metrics.py",
          "stats.t.ppf((1 + level) / 2, array.size - 1)", "stats.t.ppf((1 + level) / 2, array.size)",
          "test_metrics"),
    Fault("spread divided by n", "metrics.py", "array.std(ddof=1)", "array.std(ddof=0)", "test_metrics"),
    Fault("one-sided p-value", "metrics.py", "2 * stats.t.sf", "1 * stats.t.sf", "test_metrics"),
    Fault("one stream for both sides of the bootstrap", "metrics.py",
          "ood_counts = _resample(ood_places, ood_rng, n", "ood_counts = _resample(ood_places, id_rng, n",
          "test_metrics"),
    # k-NN outliers
    Fault("the boundary is the middle", "knn_outliers.py", "boundary = _largest(edge(z, k, n_boundary), n_boundary)",
          "boundary = _largest(-edge(z, k, n_boundary).nan_to_num(neginf=9.0), n_boundary)", "test_knn_outliers"),
    Fault("plain boundary with k + 1", "knn_outliers.py", "_largest(kth_distance(z, z, k), n_boundary)",
          "_largest(kth_distance(z, z, min(k + 1, len(z))), n_boundary)", "test_knn_outliers"),
    Fault("candidates leave the sphere", "knn_outliers.py",
          "return unit(points[:, None] + sigma * noise.to(points.dtype))",
          "return points[:, None] + sigma * noise.to(points.dtype)", "test_knn_outliers"),
    Fault("outliers without sigma", "knn_outliers.py", "sigma * moves.double())", "moves.double())",
          "test_knn_outliers"),
    Fault("nearest candidates kept", "knn_outliers.py", "argsort(dim=-1, descending=True, stable=True)",
          "argsort(dim=-1, descending=False, stable=True)", "test_knn_outliers"),
    Fault("scrambled selection unscrambled", "knn_pruning.py",
          "return values.reshape(*values.shape[:-2], values.shape[-1], values.shape[-2]).mT",
          "return values", "test_knn_outliers"),
    Fault("rounds share their noise", "knn_outliers.py", "spawn_key=(class_index, round_index)",
          "spawn_key=(class_index, 0)", "test_knn_outliers"),
    Fault("classes share their noise", "knn_outliers.py", "spawn_key=(class_index, round_index)",
          "spawn_key=(0, round_index)", "test_knn_outliers"),
    Fault("classes in turns", "knn_outliers.py", "classes.repeat_interleave(rounds * n_boundary * keep)",
          "classes.repeat(rounds * n_boundary * keep)", "test_knn_outliers"),
    Fault("pruning: a neighbour too many", "knn_pruning.py", "few = fewer_than(k, single, drift, line, threads)",
          "few = fewer_than(max(1, k // 2), single, drift, line, threads)", "test_knn_outliers"),
    Fault("pruning: the mark without its error", "knn_pruning.py",
          "tops = tops.view_as(likely) + error[push, 0]", "tops = tops.view_as(likely) - 0.05",
          "test_knn_outliers"),
    # mutual information
    Fault("CLUB upside down", "mutual_information.py", "(a * e + (s - e.square()) / 2)",
          "(a * e - (s - e.square()) / 2)", "test_mutual_information"),
    Fault("CLUB of means not centred", "mutual_information.py", "e, a = y - mean, mu - mean",
          "e, a = y - mean, mu", "test_mutual_information"),
    Fault("CLUB with the variance for its inverse", "mutual_information.py", "* torch.exp(-logvar)\n    return",
          "* torch.exp(logvar)\n    return", "test_mutual_information"),
    Fault("CLUB averaged over dimensions", "mutual_information.py",
          'finite_loss(terms.sum(dim=1).mean(), "the CLUB bound")\n\n\ndef club_naive',
          'finite_loss(terms.mean(), "the CLUB bound")\n\n\ndef club_naive', "test_mutual_information"),
    Fault("likelihood without its constant", "mutual_information.py", "-(math.log(2 * math.pi) + logvar",
          "-(logvar", "test_mutual_information"),
    Fault("likelihood that ignores the variance", "mutual_information.py",
          "math.log(2 * math.pi) + logvar + squares", "math.log(2 * math.pi) + squares",
          "test_mutual_information"),
    Fault("variance without bounds", "mutual_information.py", ", nn.Tanh())", ", nn.Identity())",
          "test_mutual_information"),
    Fault("true information with a plus", "mutual_information.py", "-dims / 2 * math.log1p(-rho * rho)",
          "-dims / 2 * math.log1p(rho * rho)", "test_mutual_information"),
    # distillation
    Fault("divergence the other way", "distillation.py",
          "student.log_softmax(dim=1),\n        teacher.log_softmax(dim=1),",
          "teacher.log_softmax(dim=1),\n        student.log_softmax(dim=1),", "test_distillation"),
    Fault("distillation over the batch", "distillation.py", "teacher.log_softmax(dim=1),",
          "teacher.log_softmax(dim=0),", "test_distillation"),
    Fault("distillation averaged over classes", "distillation.py", 'reduction="batchmean"',
          'reduction="mean"', "test_distillation"),
    Fault("temperature not squared", "distillation.py", "temperature * temperature * softened", "temperature * softened",
          "test_distillation"),
    Fault("adapter without its last normalisation", "distillation.py", "nn.BatchNorm1d(student_dim),",
          "nn.Identity(),", "test_distillation"),
    # terms and recipes
    Fault("features not detached where q is fitted", "terms.py", "step.features.detach().float()",
          "step.features.float()", "test_recipes"),
    Fault("q fitted to be unlikely", "terms.py", "loss = -self.q.log_likelihood", "loss = self.q.log_likelihood",
          "test_recipes"),
    Fault("q not held for the bound", "terms.py", "self.q.requires_grad_(False)", "self.q.requires_grad_(True)",
          "test_recipes"),
    Fault("outliers of the next class", "terms.py", "self.starts[step.labels] + within",
          "self.starts[(step.labels + 1) % len(self.starts)] + within", "test_recipes"),
    Fault("always the first outlier of a class", "terms.py", "self.starts[step.labels] + within]]",
          "self.starts[step.labels]]]", "test_recipes"),
    Fault("random pairs by class", "terms.py", 'if self.pairing == "random":', 'if self.pairing == "class":',
          "test_recipes"),
    Fault("adapter not trained", "terms.py", "return list(self.parameters())\n\n\nclass CrossEntropy",
          "return []\n\n\nclass CrossEntropy", "test_train test_recipes"),
    Fault("answers to other images", "terms.py", "logit_kd(logits, self.logits[self._drawn])",
          "logit_kd(logits, self.logits[self._drawn.flip(0)])", "test_recipes"),
    Fault("distances of other images", "terms.py", "distance_kd(logits, self.distances[self._drawn])",
          "distance_kd(logits, self.distances[self._drawn.flip(0)])", "test_recipes"),
    Fault("answers without the distance", "recipes.py",
          "distances = _distances(terms[-1].distance, said, device) if arm.distance else None",
          "distances = None", "test_recipes"),
    Fault("near images hedged", "distillation.py", "(nearer / len(id_distances))", "(1 - nearer / len(id_distances))",
          "test_distillation test_recipes"),
    Fault("answers hedged and forgotten", "recipes.py", "logits = hedged(", "hedged(", "test_recipes"),
    Fault("hedged by the answers' own distances", "recipes.py", "logits = hedged(logits, distances, of_id, arm.hedge)",
          "logits = hedged(logits, distances, distances, arm.hedge)", "test_recipes"),
    Fault("second half of the own class", "recipes.py", "place += own * (place >= ", "place += 0 * (place >= ",
          "test_recipes"),
    Fault("unread images of the neighbour set", "images.py", "torch.bucketize(index, ends, right=True)",
          "torch.bucketize(index, ends)", "test_openood"),
    Fault("decoded outliers alone", "materials.py", "index = torch.cat([known, len(train) + unknown])",
          "index = torch.cat([len(train) + unknown, len(train) + unknown])", "test_study"),
    Fault("exposure away from uniform", "terms.py", "return -logits.log_softmax(dim=1).mean()",
          "return logits.log_softmax(dim=1).mean()", "test_recipes"),
    Fault("exposure over the batch", "terms.py", "return -logits.log_softmax(dim=1).mean()",
          "return -logits.log_softmax(dim=0).mean()", "test_recipes"),
    Fault("latent labels of other images", "terms.py", "F.cross_entropy(known, self.labels[self._drawn])",
          "F.cross_entropy(known, self.labels[self._drawn.flip(0)])", "test_recipes"),
    Fault("known and unknown latents swapped", "terms.py", "known, unknown = step", "unknown, known = step",
          "test_recipes"),
    Fault("latents mirrored upside down", "terms.py", "latents[mirrored].flip(-1)", "latents[mirrored].flip(-2)",
          "test_recipes"),
    Fault("weights of the two MICL terms swapped", "recipes.py", 'Micl("MICL k-NN", weights.micl_knn',
          'Micl("MICL k-NN", weights.micl_diffusion', "test_recipes"),
    Fault("column means over the wrong axes", "recipes.py", "return latents.mean(dim=(1, 2))",
          "return latents.mean(dim=(2, 3))", "test_recipes"),
    Fault("noise without its spread", "recipes.py", "x.mean() + x.std() * torch.randn", "x.mean() + torch.randn",
          "test_study"),
    Fault("decoded arms see real images", "recipes.py", 'real if arm.exposure == "real" else outliers.images',
          'outliers.images if real is None else real', "test_recipes"),
    # students
    Fault("outliers move the running statistics", "students.py", "m.momentum = 0.0", "m.momentum = 0.1",
          "test_students"),
    Fault("momenta not put back", "students.py", "m.momentum = momentum", "m.momentum = 0.0", "test_students"),
    Fault("latents enter one stage too early", "students.py", "last.append(self.stages[2:](maps))",
          "last.append(self.stages[2:](maps.flip(0)))", "test_students"),
    Fault("features before the last ReLU", "students.py", "return F.relu(y + self.shortcut(x))",
          "return y + self.shortcut(x)", "test_students"),
    # training and views
    Fault("teacher's answer to another view", "train.py",
          "teacher_logits=views.teacher_logits[view, pick]", "teacher_logits=views.teacher_logits[0, pick]",
          "test_train"),
    Fault("learning rate that never falls", "train.py", "self.optimizer.step()\n        self.schedule.step()",
          "self.optimizer.step()", "test_train"),
    Fault("terms not weighted", "train.py", "sum(term.weight * values[term.name] for term in self.terms)",
          "sum(values[term.name] for term in self.terms)", "test_train test_recipes"),
    Fault("gradients not cleared", "train.py", "self.optimizer.zero_grad()\n        self.accelerator.backward(loss)",
          "self.accelerator.backward(loss)", "test_train"),
    Fault("batches in one order for ever", "train.py", "order = torch.randperm(n, generator=self.generator)[",
          "order = torch.arange(n)[", "test_train"),
    Fault("own batch not asked for", "train.py", "own_batch=self.settings.own_batch", "own_batch=True", "test_train"),
    Fault("shift without its flip", "views.py",
          "images = torch.where(flip.to(device).view(n, 1, 1, 1), images.flip(-1), images)",
          "images = images.clone()", "test_train"),
    Fault("border of zeros", "views.py", 'mode="reflect"', 'mode="constant"', "test_train"),
    # diffusion
    Fault("outliers not scaled to their word", "diffusion_outliers.py", "directions * lengths", "directions",
          "test_diffusion_outliers"),
    Fault("guidance the other way", "diffusion_outliers.py", "guidance_scale=guidance", "guidance_scale=-guidance",
          "test_diffusion_outliers"),
    Fault("prompt and empty prompt swapped", "diffusion_outliers.py",
          "negative_prompt_embeds=unconditional.expand(len(batch), -1, -1)",
          "negative_prompt_embeds=embedded[torch.from_numpy(which)]", "test_diffusion_outliers"),
    Fault("every latent of one seed", "diffusion_outliers.py", "manual_seed(seeds[i])", "manual_seed(seeds[0])",
          "test_diffusion_outliers"),
    Fault("latents in the batches' order", "diffusion_outliers.py", "torch.cat(latents)[order.argsort()]",
          "torch.cat(latents)", "test_diffusion_outliers"),
    Fault("decoded at the encoder's scale", "diffusion_outliers.py", "/ vae.config.scaling_factor).sample",
          "* vae.config.scaling_factor).sample", "test_diffusion_outliers"),
    Fault("encoded latents not scaled", "diffusion_outliers.py",
          "batch_size)) * vae.config.scaling_factor", "batch_size))",
          "test_diffusion_outliers"),
    Fault("the word at its first place", "diffusion_outliers.py", "position = starts[-1]", "position = starts[0]",
          "test_diffusion_outliers"),
    Fault("the hook stays", "diffusion_outliers.py", "handle.remove()", "pass", "test_diffusion_outliers"),
    # study and seeds
    Fault("stages share one stream", "benchmarks.py", '"/".join([str(seed), *stage])', "str(seed)",
          "test_benchmarks test_study"),
    Fault("arms start apart", "study.py", "student.load_state_dict(materials.start)", "pass", "test_study"),
    Fault("ID features of the last images", "materials.py", "[: self.preset.n_per_class, 0]",
          "[-self.preset.n_per_class :, 0]", "test_study"),
    Fault("validation-OOD counted as near", "study.py", '"near": benchmark.near,', '"near": benchmark.validation_ood,',
          "test_study"),
    Fault("vectors keep unit length", "materials.py", "vectors * lengths[classes, None]", "vectors", "test_study"),
    Fault("picks of one class", "materials.py",
          "[turns.argsort(stable=True)[:n]]", "[:n]", "test_study"),
    Fault("ID images of the first classes alone", "materials.py",
          "torch.randperm(len(train), generator=generator)[:rest]", "torch.arange(rest)", "test_wiring"),
    Fault("own images under the names of the preset's", "materials.py",
          'return f"{what}-of-{self._own}" if self._own else what', "return what", "test_wiring"),
    Fault("half floats taken for whole ones", "materials.py",
          "TrainSettings(mixed_precision=self.preset.train.mixed_precision)", "TrainSettings()", "test_wiring"),
    Fault("a model half saved is another", "run_files.py", 'if not name.startswith("."))', "if name)",
          "test_study"),
    Fault("a folder beside the package is inside", "run_files.py", "folder.is_relative_to(package)",
          "str(folder).startswith(str(package))", "test_study"),
    Fault("images read late are asked about for nothing", "workers.py", 'what != "views" or not', "True or not",
          "test_workers"),
    # what reaches what
    Fault("the outliers' seed", "materials.py", 'generator=generator_for(self.seed, "knn")',
          'generator=generator_for(0, "knn")', "test_wiring"),
    Fault("the training's seed", "study.py", 'generator=generator_for(seed, "training")',
          'generator=generator_for(0, "training")', "test_wiring"),
    Fault("one student for all seeds", "materials.py", "torch.manual_seed(self.seed)", "torch.manual_seed(0)",
          "test_wiring"),
    Fault("steps of the settings ignored", "materials.py", "prompt=settings.prompt, steps=settings.steps, guid",
          "prompt=settings.prompt, guid", "test_wiring"),
    Fault("words of other outliers", "materials.py", "[names[c] for c in classes[picks].tolist()]",
          "[names[c] for c in classes[: len(picks)].tolist()]", "test_wiring"),
    Fault("outliers kept by less than their diffusion", "materials.py", '("distance", "weights"), dict',
          '("distance", "weights", "diffusion"), dict', "test_wiring"),
    Fault("latents kept by less than their pipeline", "materials.py",
          '"distance", "knn", "diffusion", "weights"), {what: None}',
          '"distance", "knn", "diffusion", "weights", "pipeline"), {what: None}', "test_wiring"),
    Fault("outliers kept by a distance they do not know", "materials.py", '("distance", "weights"), dict',
          '("weights",), dict', "test_study"),
    Fault("the preset's distance forgotten", "recipes.py", "arm.distance and preset.distance", "arm.distance",
          "test_study"),
    Fault("a distance for arms that have none", "recipes.py", "arm.distance and preset.distance",
          "preset.distance", "test_ablations"),
    Fault("one change of a variation", "recipes.py", "for change in changes:", "for change in changes[:1]:", "test_recipes"),
    Fault("an ablation runs its own base again", "ablations.py", "!= (plain.get(name), preset):", "!= ():",
          "test_ablations"),
    Fault("answers kept by their kind alone", "materials.py", "key = (arm.answers, arm.outliers)",
          "key = (arm.answers,)", "test_wiring"),
    Fault("training on near-OOD", "study.py", "s.images for s in benchmark.validation_ood.values()",
          "s.images for s in benchmark.near.values()", "test_wiring"),
    Fault("scores of training images", "study.py", 'logits = {"id": predict(student, benchmark.test.images)[0]}',
          'logits = {"id": predict(student, benchmark.train.images)[0][:len(benchmark.test)]}', "test_wiring"),
    Fault("the adapter at its student's rate", "recipes.py", "teacher_dim, student_dim, settings.adapter_lr))",
          "teacher_dim, student_dim, settings.lr))", "test_wiring"),
    Fault("answers at another term's weight", "recipes.py", "Answers(weights.answers,",
          "Answers(weights.kd_distance,", "test_wiring"),
    Fault("no weight decay", "train.py", "nesterov=True, weight_decay=s.weight_decay", "nesterov=True", "test_train"),
    Fault("an image in two splits", "image_folders.py", "order[counts[0] : sum(counts)]", "order[: counts[1]]",
          "test_openood"),
    Fault("labels of other files", "openood.py", "[files[i] for i in pick.tolist()], labels[pick]",
          "[files[i] for i in pick.tolist()], labels[pick].flip(0)", "test_openood"),
    Fault("features of another size of image", "teacher_cache.py", '        "image_size": teacher.image_size,\n', "",
          "test_teacher_cache"),
    Fault("velocity with the wrong sign", "pretrain/unet.py", "a * e - s * x)", "a * e + s * x)", "test_pretrain"),
    Fault("latents scaled the wrong way", "pretrain/autoencoder.py", "scaling_factor=1 / means.std().item()",
          "scaling_factor=means.std().item()", "test_pretrain"),
    Fault("prompts left out the wrong way round", "pretrain/unet.py", "silent = chance[:, 1] < self.settings.p_no_prompt",
          "silent = chance[:, 1] > self.settings.p_no_prompt", "test_pretrain"),
    Fault("the energy of the features", "distillation.py", "return energy(said.logits.float())",
          "return energy(said.features.float())", "test_distillation test_recipes"),
    Fault("classes in another order pass", "materials.py", "if theirs != ours and sorted", "if False and sorted",
          "test_wiring"),
    Fault("a guess in the teacher's place passes", "materials.py", "right < 1.5 /", "right < 0 /", "test_wiring"),
    Fault("a run that outlives its teacher", "recipes.py", '[] if self.asks_teacher else ["teacher"]', '["teacher"]',
          "test_study test_wiring"),
    Fault("a run that outlives its outliers", "recipes.py", '[] if self.outliers else ["n_per_class"',
          '[] if not self.outliers else ["n_per_class"', "test_study test_wiring"),
    Fault("a teacher that is not waited for", "workers.py", '"views": "teacher"}', '"views": None}', "test_workers"),
    Fault("a diffusion model that is not waited for", "workers.py", '.get(what, "pipeline")', ".get(what)",
          "test_workers"),
    Fault("every arm asks the teacher", "study.py", "asks_teacher=arm.asks_teacher", "asks_teacher=True", "test_wiring"),
    Fault("images shifted the wrong way", "teacher.py", "(0.5 - mean) / std", "(mean - 0.5) / std", "test_teacher"),
    Fault("an image both ID and OOD", "image_folders.py", "if owner.setdefault(path, name) != name:",
          "if owner.setdefault(path, name) is None:", "test_openood"),
    Fault("scores in three digits", "train.py", 'convolution.fp32_precision, "ieee"',
          'convolution.fp32_precision, "tf32"', "test_train"),
    Fault("the first GPU in place of the second", "train.py", "torch.cuda.set_device(device)", "pass", "test_train"),
    Fault("one augmentation for all shares", "train.py", "return share.of(images[view, pick])",
          "return images[share.of(view), share.of(pick)]", "test_data_parallel"),
    Fault("an old teacher's words are whole", "pretrain/parts.py", "return noted in (None, content_of(teacher))",
          "return True", "test_pretrain"),
    Fault("a state of other images goes on", "pretrain/loop.py",
          '        "images": hashlib.sha256(bytes_of(source.images.images)).hexdigest(),\n', "", "test_pretrain"),
    # classes held out
    Fault("a held-out class keeps its label's place", "benchmarks.py", "return ImageSet(subset(images.images, pick), labels[pick])",
          "return ImageSet(subset(images.images, pick), images.labels[pick])", "test_hold_out"),
    Fault("a choice sees the test sets", "benchmarks.py", "known=True), near={}, far={},", "known=True),",
          "test_hold_out"),
    Fault("what is held out comes from the test", "benchmarks.py", '{"held-out": part(self.train, known=False)}',
          '{"held-out": part(self.test, known=False)}', "test_hold_out"),
    Fault("students see what is held out", "materials.py", ").hold_out(p.held_out),", "),", "test_hold_out"),
    Fault("models see what is held out", "pretrain/settings.py", "known = benchmark.hold_out(held_out)",
          "known = benchmark", "test_hold_out"),
    Fault("one group of classes takes all turns", "study_command.py", "turns[seed % len(turns)][1]", "turns[0][1]",
          "test_hold_out"),
    Fault("a choice shows the test sets", "report.py", "columns = VALIDATION if choice else COLUMNS",
          "columns = COLUMNS", "test_hold_out"),
    Fault("a choice in the place of the arms", "report.py", 'return "choices" if choice else None',
          'return None if choice else None', "test_hold_out"),
    # what a reader is told
    Fault("a smaller study in a larger one's place", "study_command.py", "if name not in kept:", "if True:",
          "test_study"),
    Fault("the machine that collects", "report.py", '"; ".join(sorted({m["machine"] for m in made}))',
          'made[-1]["machine"]', "test_study"),
    Fault("a claim holds on its mean alone", "claims.py", "HOLDS if low > claim", "HOLDS if high > claim", "test_claims"),
    Fault("differences of other seeds", "claims.py", "theirs[s] / unit for s in seeds]",
          "theirs[s] / unit for s in seeds[::-1]]", "test_claims test_ablations test_study"),
    # files and processes
    Fault("Ctrl-C between a worker and its orders", "workers.py",
          "signal.signal(signal.SIGINT, lambda number, _: heard.append(number))", "pass", "test_workers"),
    Fault("Ctrl-C is forgotten", "workers.py", "handler(signal.SIGINT, None)", "pass", "test_workers"),
    Fault("what another run deleted is damaged", "files.py", "return not stat.S_ISREG(path.stat().st_mode)",
          "return path.exists() and not path.is_file()", "test_files"),
    Fault("folders of the living are swept", "files.py", "if left.is_dir() and _forgotten(left):", "if True:", "test_files"),
    Fault("altered tensors pass", "files.py", "!= _checksum(tensors, header)", "is None", "test_files"),
    Fault("gradients of the own share alone", "data_parallel.py", "ctx.share.processes * ctx.share", "ctx.share",
          "test_data_parallel"),
    Fault("rows of a batch in another order", "data_parallel.py", "torch.stack(parts, dim=1).flatten(0, 1)",
          "torch.cat(parts)", "test_data_parallel"),
    Fault("any error is one of memory", "batches.py", "size > 1 and should_reduce_batch_size(error)", "size > 1",
          "test_batches"),
    Fault("a failed batch left out", "batches.py", "batch_size = size // 2", "batch_size, done = size // 2, part.stop",
          "test_batches"),
    # costs and pictures
    Fault("a panel keeps the bars of its last picture", "widgets/stage.py", "list(ax.containers)", "[]",
          "test_widgets"),
    Fault("a panel keeps its last picture's legend", "widgets/stage.py", "if ax.get_legend() is not None:", "if False:",
          "test_widgets"),
    Fault("a panel keeps its last picture's scales", "widgets/stage.py", 'xscale="linear", yscale="linear", ', "",
          "test_widgets"),
    Fault("a plan of NaN costs NaN", "costs.py", "need_number(**numbers)", "pass", "test_bad_input_more"),
    Fault("guidance is free", "costs.py", "plan.steps * 2 *", "plan.steps *", "test_costs"),
    Fault("an interval at its ends", "plots.py", "[[mean - low], [high - mean]]", "[[low], [high]]", "test_plots"),
    Fault("EMA not saved", "pretrain/unet.py", '_save_half(pipeline, average.module, out / "pipeline")',
          '_save_half(pipeline, both, out / "pipeline")', "test_pretrain"),
    Fault("one chance for both", "pretrain/unet.py", "own = chance[:, :1] < self.settings.p_image_feature",
          "own = chance[:, 1:] < self.settings.p_image_feature", "test_pretrain"),
    Fault("feature of another image", "pretrain/unet.py", "torch.where(own, self.features[pick] * self.settings.token_scale, word)",
          "torch.where(own, self.features[pick.flip(0)] * self.settings.token_scale, word)", "test_pretrain"),
    Fault("second optimiser never steps", "pretrain/teacher.py", "zip(optimizers, schedules, strict=True)",
          "zip(optimizers[:1], schedules[:1], strict=True)", "test_pretrain"),
    Fault("KL of the autoencoder with a minus", "pretrain/autoencoder.py", "+ settings.vae_kl * kl",
          "- settings.vae_kl * kl", "test_pretrain"),
    Fault("seconds forgotten on resume", "train.py", "started -= history.seconds",
          "pass", "test_checkpoint"),
    Fault("checkpoint forgets the weights of terms", "train.py", "[[t.name, t.weight] for t in terms]",
          "[t.name for t in terms]", "test_checkpoint"),
    Fault("one view for a whole batch", "train.py", "view = torch.randint(len(views.images), (size,), generator=self.generator)",
          "view = torch.randint(len(views.images), (1,), generator=self.generator).expand(size)", "test_train"),
    Fault("cache key without mean and spread", "teacher_cache.py", "sorted(teacher.state_dict().items())",
          "sorted(teacher.model.state_dict().items())", "test_teacher_cache"),
    Fault("only the first n outlier images", "terms.py", "return self.images[torch.randint(len(self.images), (n,), generator=generator)]",
          "return self.images[torch.randint(min(n, len(self.images)), (n,), generator=generator)]", "test_recipes"),
    Fault("one draw for known and unknown latents", "terms.py", "outliers = torch.randint(len(self.outliers), (n,), generator=generator)",
          "outliers = self._drawn % len(self.outliers)", "test_recipes"),
    Fault("kinds of answers share a stream", "materials.py", 'generator_for(self.seed, "answers", kind)',
          'generator_for(self.seed, "answers")', "test_wiring"),
    Fault("interval of another level", "metrics.py", "mean_interval(differences, level)",
          "mean_interval(differences)", "test_metrics"),
    Fault("variations of the preset dropped", "ablations.py", "if (arm, changed) != (plain.get(name), preset):",
          "if arm != plain.get(name):", "test_ablations"),
    Fault("pooled scores of energy alone", "report.py", 'torch.cat([r.scores[f"{score}/{name}"] for name in names])',
          'torch.cat([r.scores[f"energy/{name}"] for name in names])', "test_study"),
    Fault("encoded without antialiasing", "diffusion_outliers.py", 'interpolate(x, size=side, mode="bilinear", antialias=True)',
          'interpolate(x, size=side, mode="bilinear")', "test_diffusion_outliers"),
    Fault("stretch that swells", "shapes.py", "(radius / stretch[:, None])]",
          "(radius * stretch[:, None])]", "test_shapes"),
    Fault("worker does not repeat", "workers.py", "device=device, fresh=fresh, bars=False",
          "device=device, fresh=False, bars=False", "test_workers"),
    Fault("start kept by other images", "materials.py",
          '"pipeline", "n_per_class", "distance", "knn", "diffusion", "weights")',
          '"pipeline", "n_per_class", "distance", "knn", "diffusion", "weights", "data_seed")', "test_study"),
    Fault("turns to one side", "shapes.py", "_uniform(n, -math.pi / 6, math.pi / 6, generator)",
          "_uniform(n, 0, math.pi / 6, generator)", "test_shapes"),
    # found to survive on 2026-11-28
    Fault("training follows the test images", "study.py", "val=(benchmark.val.images, benchmark.val.labels)",
          "val=(benchmark.test.images, benchmark.test.labels)", "test_wiring"),
    Fault("a step more of schedule", "train.py", "total_steps=steps,", "total_steps=steps + 1,", "test_train"),
    Fault("a long warm-up", "train.py", "pct_start=min(0.1, 100 / steps)",
          "pct_start=min(0.5, 100 / steps)", "test_train"),
    Fault("a half from the wrong place", "recipes.py", "made[~up, :, h:] = other[~up, :, h:]",
          "made[~up, :, h:] = other[~up, :, :h]", "test_recipes"),
    Fault("InfoNCE over the other axis", "contrastive_bounds.py", "critic.logsumexp(dim=1)",
          "critic.logsumexp(dim=0)", "test_contrastive_bounds"),
    Fault("a stage's seconds over all runs", "report.py", "sum(x) / len(x) for stage",
          "sum(x) / len(runs) for stage", "test_study"),
    Fault("the mark of the other convention", "widgets/threshold.py", "confusion_at(ids, ood, stars[positive], positive)",
          'confusion_at(ids, ood, stars["ood"], "ood")', "test_widgets_threshold"),
    Fault("AUROC said to be FPR95", "widgets/arms.py", "{found.fpr95:.1%}", "{1 - found.auroc:.1%}",
          "test_widgets_training"),
    Fault("chance counts the point itself", "widgets/maps.py", "(n - 1) / (sum(sizes.values()) - 1)",
          "n / sum(sizes.values())", "test_maps"),
    Fault("all classes divided alike", "image_folders.py", 'generator_for(seed, "split", files[0].path.parent.name)',
          'generator_for(seed, "split")', "test_openood"),
]  # fmt: skip


def copy_to(folder: Path) -> None:
    """What the tests need of this checkout; the large models and figures are only linked."""
    ignore = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(ROOT / "oal_lite", folder / "oal_lite", ignore=ignore)
    (folder / "oal_lite" / "assets").symlink_to(ROOT / "oal_lite" / "assets")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("figures", "notebooks", "README.md"):
        (folder / name).symlink_to(ROOT / name)


def run_tests(folder: Path, names: str) -> int:
    """Run test files of a copy until the first failure, in a forked process; pytest's status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        import pytest

        files = [f"tests/{name}.py" for name in names.split()]
        with redirect_stdout(io.StringIO()):
            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *files])
        import oal_lite

        os._exit(int(status) if Path(oal_lite.__file__).is_relative_to(folder) else 99)
    finally:
        os._exit(98)


def try_fault(fault: Fault) -> str:
    """Make one fault in a fresh copy and see who notices."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_to(folder)
        path = folder / "oal_lite" / fault.file
        source = path.read_text()
        if source.count(fault.old) != 1 or fault.old == fault.new:
            return BROKEN
        path.write_text(source.replace(fault.old, fault.new))
        status = run_tests(folder, fault.tests)
    return {0: SURVIVED, 1: CAUGHT, 2: CAUGHT}.get(status, f"BROKEN: pytest's status {status}")


def main(words: list[str]) -> int:
    """Try all faults, or those whose names hold one of the words."""
    # In the parent, once: every child would need a few seconds for them.
    import beartype  # noqa: F401
    import hypothesis  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch  # noqa: F401

    chosen = [f for f in FAULTS if not words or any(w in f.name or w in f.file for w in words)]
    bad = []
    for fault in chosen:
        started = time.perf_counter()
        result = try_fault(fault)
        bad += [fault.name] if result != CAUGHT else []
        took = time.perf_counter() - started
        sys.stdout.write(f"{result:9} {took:5.0f} s  {fault.file}: {fault.name}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - len(bad)} of {len(chosen)} faults are caught\n")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
